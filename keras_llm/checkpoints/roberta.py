"""RoBERTa (Liu et al., 2019) in the files of Hugging Face.

Notable: what every token gets there as its one segment is added to the positions here, which every
token gets too.
"""

import numpy as np

from keras_llm.checkpoints.bert import ENCODER_FIXED, ENCODER_SETTINGS, encoder_layers
from keras_llm.checkpoints.family import Family, Tensor
from keras_llm.models import RobertaBackbone, RobertaMaskedLM
from keras_llm.tokenizers import BytePairTokenizer

FIRST_POSITION = 2  # the rows of their table before it are for padding, and for none

POSITIONS = "roberta.embeddings.position_embeddings"
SEGMENTS = "roberta.embeddings.token_type_embeddings"


def _positions_and_segment(backbone):
    return [
        Tensor(
            (f"{POSITIONS}.weight", f"{SEGMENTS}.weight"),
            "position_embedding/embeddings",
            read=lambda positions, segment: positions + segment,
            write=lambda positions: (positions, np.zeros_like(positions[:1])),
        )
    ]


ROBERTA = Family(
    model_type="roberta",
    models={RobertaBackbone: "RobertaModel", RobertaMaskedLM: "RobertaForMaskedLM"},
    settings={**ENCODER_SETTINGS, "layer_norm_eps": "layer_norm_epsilon"},
    fixed={**ENCODER_FIXED, "pad_token_id": 1, "type_vocab_size": 1},
    same={"attention_probs_dropout_prob": "hidden_dropout_prob"},
    read_settings=lambda config: {
        "max_sequence_length": config["max_position_embeddings"] - FIRST_POSITION
    },
    write_settings=lambda backbone: {
        "max_position_embeddings": backbone.max_sequence_length + FIRST_POSITION
    },
    prefix="roberta.",
    layers={
        **{
            theirs: ours
            for theirs, ours in encoder_layers("roberta.").items()
            if theirs not in (POSITIONS, SEGMENTS)
        },
        "lm_head": "masked_lm_head",
        "lm_head.dense": "masked_lm_head/dense",
        "lm_head.layer_norm": "masked_lm_head/layer_norm",
    },
    tensors=_positions_and_segment,
    copies={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    ignored=("roberta.embeddings.position_ids", "roberta.pooler.dense.*"),
    load_tokenizer=BytePairTokenizer.load,
    tokenizer_files=("vocab.json", "tokenizer.json"),
    tokenizer_class="RobertaTokenizer",
    token_ids={
        "bos_token_id": "start_token_id",
        "eos_token_id": "end_token_id",
        "pad_token_id": "pad_token_id",
    },
)

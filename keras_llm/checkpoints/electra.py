"""ELECTRA (Clark et al., 2020) in the files of Hugging Face: generators and discriminators."""

from keras_llm.checkpoints.bert import ENCODER_FIXED, ENCODER_SETTINGS, encoder_layers
from keras_llm.checkpoints.family import Family
from keras_llm.models import ElectraBackbone, ElectraDiscriminator, ElectraGenerator
from keras_llm.tokenizers import WordPieceTokenizer

ELECTRA = Family(
    model_type="electra",
    models={
        ElectraBackbone: "ElectraModel",
        ElectraDiscriminator: "ElectraForPreTraining",
        ElectraGenerator: "ElectraForMaskedLM",
    },
    settings={
        **ENCODER_SETTINGS,
        "embedding_size": "embedding_dim",
        "max_position_embeddings": "max_sequence_length",
        "type_vocab_size": "num_segments",
    },
    fixed={**ENCODER_FIXED, "layer_norm_eps": 1e-12},
    same={"attention_probs_dropout_prob": "hidden_dropout_prob"},
    prefix="electra.",
    layers={
        **encoder_layers("electra."),
        "electra.embeddings_project": "embeddings_projection",
        "discriminator_predictions.dense": "replaced_token_head/dense",
        "discriminator_predictions.dense_prediction": "replaced_token_head/output_dense",
        "generator_lm_head": "masked_lm_head",
        "generator_predictions.dense": "masked_lm_head/dense",
        "generator_predictions.LayerNorm": "masked_lm_head/layer_norm",
    },
    copies={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    ignored=("electra.embeddings.position_ids", "electra.embeddings.token_type_ids"),
    load_tokenizer=WordPieceTokenizer.load,
    tokenizer_files=("vocab.txt", "tokenizer.json"),
    tokenizer_class="ElectraTokenizer",
)

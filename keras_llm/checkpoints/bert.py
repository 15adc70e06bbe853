"""BERT (Devlin et al., 2018) in the files of Hugging Face."""

from keras_llm.checkpoints.family import Family, Tensor
from keras_llm.models import BertBackbone, BertForPretraining
from keras_llm.tokenizers import WordPieceTokenizer


def encoder_layers(prefix):
    """Names the parts of BERT's encoder, which RoBERTa and ELECTRA have too.

    Args:
        prefix: str, what their names begin with: `"bert."`.

    Returns:
        Dict from their names to ours.

    Example:
        >>> encoder_layers("bert.")["bert.embeddings.LayerNorm"]
        'embeddings_norm'
    """
    theirs, ours = prefix + "encoder.layer.{}.", "transformer_layer_{}/"
    return {
        prefix + "embeddings.word_embeddings": "token_embedding",
        prefix + "embeddings.position_embeddings": "position_embedding",
        prefix + "embeddings.token_type_embeddings": "segment_embedding",
        prefix + "embeddings.LayerNorm": "embeddings_norm",
        theirs + "attention.self.query": ours + "self_attention/query_dense",
        theirs + "attention.self.key": ours + "self_attention/key_dense",
        theirs + "attention.self.value": ours + "self_attention/value_dense",
        theirs + "attention.output.dense": ours + "self_attention/output_dense",
        theirs + "attention.output.LayerNorm": ours + "attention_norm",
        theirs + "intermediate.dense": ours + "feed_forward/intermediate_dense",
        theirs + "output.dense": ours + "feed_forward/output_dense",
        theirs + "output.LayerNorm": ours + "feed_forward_norm",
    }


# Theirs: ours.
ENCODER_SETTINGS = {
    "vocab_size": "vocabulary_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "hidden_size": "hidden_dim",
    "intermediate_size": "intermediate_dim",
    "hidden_dropout_prob": "dropout",
}

ENCODER_FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
    "is_decoder": False,
    "add_cross_attention": False,
}


def _next_sentence_head(backbone):
    """Theirs has "follows" at index 0, ours at 1."""
    return [
        Tensor(
            "cls.seq_relationship.weight",
            "next_sentence_head/dense/kernel",
            read=lambda weight: weight[::-1].T,
            write=lambda kernel: kernel.T[::-1],
        ),
        Tensor(
            "cls.seq_relationship.bias",
            "next_sentence_head/dense/bias",
            read=lambda bias: bias[::-1],
            write=lambda bias: bias[::-1],
        ),
    ]


BERT = Family(
    model_type="bert",
    models={BertBackbone: "BertModel", BertForPretraining: "BertForPreTraining"},
    settings={
        **ENCODER_SETTINGS,
        "max_position_embeddings": "max_sequence_length",
        "type_vocab_size": "num_segments",
    },
    fixed={**ENCODER_FIXED, "layer_norm_eps": 1e-12},
    same={"attention_probs_dropout_prob": "hidden_dropout_prob"},
    prefix="bert.",
    layers={
        **encoder_layers("bert."),
        "bert.pooler.dense": "pooled_dense",
        "cls.predictions": "masked_lm_head",
        "cls.predictions.transform.dense": "masked_lm_head/dense",
        "cls.predictions.transform.LayerNorm": "masked_lm_head/layer_norm",
    },
    tensors=_next_sentence_head,
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    ignored=("bert.embeddings.position_ids", "bert.embeddings.token_type_ids"),
    load_tokenizer=WordPieceTokenizer.load,
    tokenizer_files=("vocab.txt", "tokenizer.json"),
    tokenizer_class="BertTokenizer",
)

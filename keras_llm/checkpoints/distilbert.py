"""DistilBERT (Sanh et al., 2019) in the files of Hugging Face."""

from keras_llm.checkpoints.family import Family
from keras_llm.models import DistilBertBackbone, DistilBertMaskedLM
from keras_llm.tokenizers import WordPieceTokenizer

DISTILBERT = Family(
    model_type="distilbert",
    models={DistilBertBackbone: "DistilBertModel", DistilBertMaskedLM: "DistilBertForMaskedLM"},
    settings={
        "vocab_size": "vocabulary_size",
        "n_layers": "num_layers",
        "n_heads": "num_heads",
        "dim": "hidden_dim",
        "hidden_dim": "intermediate_dim",
        "dropout": "dropout",
        "max_position_embeddings": "max_sequence_length",
    },
    fixed={"activation": "gelu", "tie_word_embeddings": True},
    same={"attention_dropout": "dropout"},
    prefix="distilbert.",
    layers={
        "distilbert.embeddings.word_embeddings": "token_embedding",
        "distilbert.embeddings.position_embeddings": "position_embedding",
        "distilbert.embeddings.LayerNorm": "embeddings_norm",
        **{
            "distilbert.transformer.layer.{}." + theirs: "transformer_layer_{}/" + ours
            for theirs, ours in {
                "attention.q_lin": "self_attention/query_dense",
                "attention.k_lin": "self_attention/key_dense",
                "attention.v_lin": "self_attention/value_dense",
                "attention.out_lin": "self_attention/output_dense",
                "sa_layer_norm": "attention_norm",
                "ffn.lin1": "feed_forward/intermediate_dense",
                "ffn.lin2": "feed_forward/output_dense",
                "output_layer_norm": "feed_forward_norm",
            }.items()
        },
        "vocab_transform": "masked_lm_head/dense",
        "vocab_layer_norm": "masked_lm_head/layer_norm",
        "vocab_projector": "masked_lm_head",
    },
    copies={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    ignored=("distilbert.embeddings.position_ids",),
    load_tokenizer=WordPieceTokenizer.load,
    tokenizer_files=("vocab.txt", "tokenizer.json"),
    tokenizer_class="DistilBertTokenizer",
)

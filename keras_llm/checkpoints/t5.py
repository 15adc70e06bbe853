"""T5 (Raffel et al., 2020) in the files of Hugging Face.

Notable: `tie_word_embeddings` says there whether the decoder's outputs are scaled, that is, whether
this is version 1.0. In version 1.1 `lm_head` is a matrix of its own; a file without it means that
it was never trained apart from the embeddings.
"""

from keras_llm.checkpoints.family import Family, Tensor
from keras_llm.models import T5Backbone, T5Seq2SeqLM
from keras_llm.tokenizers import UnigramTokenizer

# Theirs: activation, whether gated.
FEED_FORWARD = {
    "relu": ("relu", False),
    "gated-relu": ("relu", True),
    "gated-gelu": ("gelu_approximate", True),  # so they name it, for version 1.1
    "gated-silu": ("silu", True),
}


def _stack(name):
    """Names the layers of encoder or decoder that both have."""
    theirs, ours = f"{name}.block.{{}}.layer.", f"{name}_layer_{{}}/"
    feed_forward = 1 if name == "encoder" else 2
    return {
        f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias": f"{name}_position_bias",
        **_attention(theirs + "0.SelfAttention.", ours + "self_attention/"),
        theirs + "0.layer_norm": ours + "attention_norm",
        theirs + f"{feed_forward}.DenseReluDense.wo": ours + "feed_forward/output_dense",
        theirs + f"{feed_forward}.layer_norm": ours + "feed_forward_norm",
        f"{name}.final_layer_norm": f"{name}_norm",
    }


def _attention(theirs, ours):
    return {theirs + part[0]: f"{ours}{part}_dense" for part in ("query", "key", "value", "output")}


def _feed_forward(backbone):
    """Lists the kernels before the activation: one, or two where it is gated."""
    names = {"wi": "intermediate_dense"}
    if backbone.use_gated_activation:
        names = {"wi_0": "intermediate_dense", "wi_1": "gated_dense"}
    return [
        Tensor(
            f"{stack}.block.{{}}.layer.{layer}.DenseReluDense.{theirs}.weight",
            f"{stack}_layer_{{}}/feed_forward/{ours}/kernel",
            read=lambda weight: weight.T,
            write=lambda kernel: kernel.T,
        )
        for stack, layer in (("encoder", 1), ("decoder", 2))
        for theirs, ours in names.items()
    ]


def _read_settings(config):
    name = config.get("feed_forward_proj", "relu")
    if name not in FEED_FORWARD:
        raise ValueError(f"feed_forward_proj={name!r} is none of T5's: {sorted(FEED_FORWARD)}.")
    layers = config["num_layers"]
    if config.get("num_decoder_layers", layers) != layers:
        raise ValueError(
            f"The decoder has num_decoder_layers={config['num_decoder_layers']}, the encoder "
            f"num_layers={layers}; our T5Backbone has as many of both."
        )
    activation, is_gated = FEED_FORWARD[name]
    # What version 5 of `transformers` makes of `tie_word_embeddings` when it saves.
    is_tied = config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True))
    return {
        "activation": activation,
        "use_gated_activation": is_gated,
        "tie_embedding_weights": is_tied,
    }


def _write_settings(backbone):
    feed_forward = (backbone.activation.__name__, backbone.use_gated_activation)
    names = {ours: theirs for theirs, ours in FEED_FORWARD.items()}
    if feed_forward not in names:
        raise ValueError(
            f"activation={feed_forward[0]}, use_gated_activation={feed_forward[1]} has no name in "
            f"the files of Hugging Face; these have: {sorted(names)}."
        )
    return {
        "feed_forward_proj": names[feed_forward],
        "num_decoder_layers": backbone.num_layers,
        "tie_word_embeddings": backbone.tie_embedding_weights,
        "decoder_start_token_id": 0,
    }


T5 = Family(
    model_type="t5",
    models={
        T5Backbone: "T5ForConditionalGeneration",  # our backbone has the output matrix
        T5Seq2SeqLM: "T5ForConditionalGeneration",
    },
    settings={
        "vocab_size": "vocabulary_size",
        "num_layers": "num_layers",
        "num_heads": "num_heads",
        "d_model": "hidden_dim",
        "d_ff": "intermediate_dim",
        "d_kv": "key_value_dim",
        "dropout_rate": "dropout",
        "layer_norm_epsilon": "layer_norm_epsilon",
    },
    fixed={
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "is_encoder_decoder": True,
    },
    read_settings=_read_settings,
    write_settings=_write_settings,
    layers={
        "shared": "token_embedding",
        **_stack("encoder"),
        **_stack("decoder"),
        **_attention(
            "decoder.block.{}.layer.1.EncDecAttention.", "decoder_layer_{}/cross_attention/"
        ),
        "decoder.block.{}.layer.1.layer_norm": "decoder_layer_{}/cross_attention_norm",
        "lm_head": "output_dense",
    },
    tensors=_feed_forward,
    copies={
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    },
    fills_copies=True,
    # The first published files have this table, which the model never had a use for.
    ignored=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
    load_tokenizer=UnigramTokenizer.load,
    tokenizer_files=("spiece.model", "tokenizer.json"),
    tokenizer_class="T5Tokenizer",
    token_ids={
        "pad_token_id": "pad_token_id",
        "eos_token_id": "end_token_id",
        "decoder_start_token_id": "pad_token_id",
    },
)

"""Llama (Touvron et al., 2023; Llama 2 and 3 too) in the files of Hugging Face.

Notable:
- rotary positions pair halves of a head, there and with us, so kernels need no reordering;
- positions are plain, or stretched as in Llama 3.1; another kind is an error;
- a file of the backbone alone has no output matrix: the backbone has one all the same, which is
  then the token table.
"""

from keras_llm.checkpoints.family import Family, Tensor
from keras_llm.models import LlamaBackbone, LlamaCausalLM
from keras_llm.tokenizers import BytePairTokenizer, UnigramTokenizer

_THEIRS, _OURS = "model.layers.{}.", "transformer_layer_{}/"

# Theirs, in `rope_parameters`: ours.
_STRETCHED_POSITIONS = {
    "factor": "rope_frequency_adjustment_factor",
    "low_freq_factor": "rope_low_freq_factor",
    "high_freq_factor": "rope_high_freq_factor",
    "original_max_position_embeddings": "rope_pretraining_sequence_length",
}


def _read_settings(config):
    settings = {
        "num_key_value_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
        "head_dim": config.get("head_dim"),
    }
    if config.get("architectures") == ["LlamaModel"]:
        settings["tie_word_embeddings"] = True  # there is no other output matrix in the file

    # Two settings before version 5 of `transformers`, in one since.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    settings["rope_max_wavelength"] = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise ValueError(
            f"Positions of the type {kind!r} are not known to our LlamaBackbone; these are: "
            "'default', 'llama3'."
        )
    if kind == "llama3":
        settings |= {ours: rope[theirs] for theirs, ours in _STRETCHED_POSITIONS.items()}
    return settings


def _write_settings(backbone):
    rope = None
    if backbone.rope_frequency_adjustment_factor:
        rope = {name: getattr(backbone, ours) for name, ours in _STRETCHED_POSITIONS.items()}
        rope["rope_type"] = "llama3"
    return {
        "num_key_value_heads": backbone.num_key_value_heads,
        "head_dim": backbone.transformer_layers[0].self_attention.head_dim,
        "rope_theta": backbone.rope_max_wavelength,
        "rope_scaling": rope,
    }


def _output_matrix(backbone):
    return [
        Tensor(
            "lm_head.weight",
            "token_embedding/reverse_embeddings",
            read=lambda weight: weight.T,
            write=lambda matrix: matrix.T,
        )
    ]


def _load_tokenizer(folder):
    """Llama 1 and 2 have a SentencePiece model, Llama 3 has byte-level pairs."""
    has_model = (folder / "tokenizer.model").is_file() or (folder / "spiece.model").is_file()
    return (UnigramTokenizer if has_model else BytePairTokenizer).load(folder)


LLAMA = Family(
    model_type="llama",
    models={LlamaBackbone: "LlamaModel", LlamaCausalLM: "LlamaForCausalLM"},
    settings={
        "vocab_size": "vocabulary_size",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_query_heads",
        "hidden_size": "hidden_dim",
        "intermediate_size": "intermediate_dim",
        "max_position_embeddings": "max_sequence_length",
        "rms_norm_eps": "layer_norm_epsilon",
        "attention_dropout": "dropout",
        "attention_bias": "attention_bias",
        "mlp_bias": "mlp_bias",
        "tie_word_embeddings": "tie_word_embeddings",
    },
    defaults={
        "max_position_embeddings": 2048,
        "attention_dropout": 0.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    },
    fixed={"hidden_act": "silu"},
    read_settings=_read_settings,
    write_settings=_write_settings,
    prefix="model.",
    heads=("model.lm_head.",),
    layers={
        "model.embed_tokens": "token_embedding",
        _THEIRS + "input_layernorm": _OURS + "attention_norm",
        _THEIRS + "self_attn.q_proj": _OURS + "self_attention/query_dense",
        _THEIRS + "self_attn.k_proj": _OURS + "self_attention/key_dense",
        _THEIRS + "self_attn.v_proj": _OURS + "self_attention/value_dense",
        _THEIRS + "self_attn.o_proj": _OURS + "self_attention/output_dense",
        _THEIRS + "post_attention_layernorm": _OURS + "feed_forward_norm",
        _THEIRS + "mlp.gate_proj": _OURS + "feed_forward/intermediate_dense",
        _THEIRS + "mlp.up_proj": _OURS + "feed_forward/gated_dense",
        _THEIRS + "mlp.down_proj": _OURS + "feed_forward/output_dense",
        "model.norm": "layer_norm",
    },
    tensors=_output_matrix,
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    ignored=("model.layers.*.self_attn.rotary_emb.inv_freq",),
    load_tokenizer=_load_tokenizer,
    tokenizer_files=("tokenizer.model", "spiece.model", "tokenizer.json", "vocab.json"),
    tokenizer_class="PreTrainedTokenizerFast",
    token_ids={"bos_token_id": "start_token_id", "eos_token_id": "end_token_id"},
)

"""GPT-2 (Radford et al., 2019) in the files of Hugging Face.

Notable: queries, keys and values are one kernel there, side by side, and kernels are (inputs,
outputs) as with us; all other families there have them transposed.
"""

from keras_llm.checkpoints.family import Family
from keras_llm.models import GPT2Backbone, GPT2CausalLM
from keras_llm.tokenizers import BytePairTokenizer

_THEIRS, _OURS = "transformer.h.{}.", "transformer_layer_{}/"

GPT2 = Family(
    model_type="gpt2",
    models={GPT2Backbone: "GPT2Model", GPT2CausalLM: "GPT2LMHeadModel"},
    settings={
        "vocab_size": "vocabulary_size",
        "n_layer": "num_layers",
        "n_head": "num_heads",
        "n_embd": "hidden_dim",
        "n_positions": "max_sequence_length",
        "resid_pdrop": "dropout",
    },
    fixed={
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    same={"attn_pdrop": "resid_pdrop", "embd_pdrop": "resid_pdrop"},
    read_settings=lambda config: {
        "intermediate_dim": config.get("n_inner") or 4 * config["n_embd"]
    },
    write_settings=lambda backbone: {"n_inner": backbone.intermediate_dim},
    prefix="transformer.",
    transposed=False,
    layers={
        "transformer.wte": "token_embedding",
        "transformer.wpe": "position_embedding",
        _THEIRS + "ln_1": _OURS + "attention_norm",
        _THEIRS + "attn.c_attn": (
            _OURS + "self_attention/query_dense",
            _OURS + "self_attention/key_dense",
            _OURS + "self_attention/value_dense",
        ),
        _THEIRS + "attn.c_proj": _OURS + "self_attention/output_dense",
        _THEIRS + "ln_2": _OURS + "feed_forward_norm",
        _THEIRS + "mlp.c_fc": _OURS + "feed_forward/intermediate_dense",
        _THEIRS + "mlp.c_proj": _OURS + "feed_forward/output_dense",
        "transformer.ln_f": "layer_norm",
    },
    copies={"lm_head.weight": "transformer.wte.weight"},
    ignored=("transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias"),  # the causal mask
    load_tokenizer=BytePairTokenizer.load,
    tokenizer_files=("vocab.json", "tokenizer.json"),
    tokenizer_class="GPT2Tokenizer",
    token_ids={"bos_token_id": "start_token_id", "eos_token_id": "end_token_id"},
)

"""XLNet (Yang et al., 2019) in the files of Hugging Face.

Notable: kernels have three axes there, (features, heads, depth). Their encoding of a distance has
all sines before all cosines, ours has them in turn, so the rows of the kernel for distances change
places.
"""

import numpy as np

from keras_llm.checkpoints.family import Family, Tensor
from keras_llm.models import XLNetBackbone, XLNetForPretraining
from keras_llm.tokenizers import UnigramTokenizer

THEIR_LAYER, OUR_LAYER = "transformer.layer.{}.", "transformer_layer_{}/"

# Theirs: ours.
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_approximate", "relu": "relu", "silu": "silu"}


def _attention(backbone):
    def in_three_axes(kernel):  # (features, heads * depth) -> (features, heads, depth)
        return kernel.reshape(len(kernel), backbone.num_heads, -1)

    def in_two_axes(tensor):
        return tensor.reshape(len(tensor), -1)

    def tensor(theirs, ours, **functions):
        name = THEIR_LAYER + "rel_attn." + theirs
        return Tensor(name, OUR_LAYER + "self_attention/" + ours, **functions)

    return [
        Tensor(
            "transformer.mask_emb",
            "query_stream/embedding",
            read=lambda tensor: tensor[0, 0],
            write=lambda embedding: embedding[None, None],
        ),
        *(
            tensor(part[0], f"{part}_dense/kernel", read=in_two_axes, write=in_three_axes)
            for part in ("query", "key", "value")
        ),
        tensor(
            "o",
            "output_dense/kernel",
            read=lambda tensor: in_two_axes(tensor).T,
            write=lambda kernel: in_three_axes(kernel.T),
        ),
        tensor(
            "r",
            "position_dense/kernel",
            read=lambda tensor: _in_turn(in_two_axes(tensor)),
            write=lambda kernel: in_three_axes(_one_after_the_other(kernel)),
        ),
        tensor("r_w_bias", "content_bias"),
        tensor("r_r_bias", "position_bias"),
        tensor("r_s_bias", "segment_bias"),
        tensor("seg_embed", "segment_embeddings"),
    ]


def _in_turn(rows):
    """Sines, then cosines -> sine, cosine, sine, cosine, ..."""
    return np.stack(np.split(rows, 2), axis=1).reshape(rows.shape)


def _one_after_the_other(rows):
    return np.concatenate([rows[0::2], rows[1::2]])


def _name_of_activation(backbone):
    ours = {value: key for key, value in ACTIVATIONS.items()}
    name = backbone.activation.__name__
    if name not in ours:
        raise ValueError(
            f"The activation {name} has no name in the files of Hugging Face; these have: "
            f"{sorted(ours)}."
        )
    return ours[name]


def _activation(config):
    name = config.get("ff_activation", "gelu")
    if name not in ACTIVATIONS:
        raise ValueError(f"The activation {name!r} is none of XLNet's: {sorted(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


XLNET = Family(
    model_type="xlnet",
    models={XLNetBackbone: "XLNetModel", XLNetForPretraining: "XLNetLMHeadModel"},
    settings={
        "vocab_size": "vocabulary_size",
        "n_layer": "num_layers",
        "n_head": "num_heads",
        "d_model": "hidden_dim",
        "d_inner": "intermediate_dim",
        "dropout": "dropout",
    },
    fixed={
        "attn_type": "bi",
        "bi_data": False,
        "clamp_len": -1,
        "untie_r": True,
        "layer_norm_eps": 1e-12,
        "tie_word_embeddings": True,
    },
    read_settings=lambda config: {"activation": _activation(config)},
    write_settings=lambda backbone: {
        "ff_activation": _name_of_activation(backbone),
        "d_head": backbone.hidden_dim // backbone.num_heads,
        "mem_len": None,  # how much to remember is said when reading
    },
    prefix="transformer.",
    layers={
        "transformer.word_embedding": "token_embedding",
        THEIR_LAYER + "rel_attn.layer_norm": OUR_LAYER + "attention_norm",
        THEIR_LAYER + "ff.layer_1": OUR_LAYER + "feed_forward/intermediate_dense",
        THEIR_LAYER + "ff.layer_2": OUR_LAYER + "feed_forward/output_dense",
        THEIR_LAYER + "ff.layer_norm": OUR_LAYER + "feed_forward_norm",
        "lm_loss": "head",
    },
    tensors=_attention,
    copies={"lm_loss.weight": "transformer.word_embedding.weight"},
    ignored=("transformer.mask_emb",),  # the query stream's, which the backbone has not
    load_tokenizer=UnigramTokenizer.load,
    tokenizer_files=("spiece.model", "tokenizer.json"),
    tokenizer_class="XLNetTokenizer",
    token_ids={
        "bos_token_id": "start_token_id",
        "eos_token_id": "end_token_id",
        "pad_token_id": "pad_token_id",
    },
)

"""Copies weights of our layers into PyTorch's, to compare what both compute."""

import numpy as np
import torch


def _copy(parameter, array):
    with torch.no_grad():
        parameter.copy_(torch.tensor(np.ascontiguousarray(array)))


def dense(theirs, ours):
    """PyTorch keeps kernels as (out, in), Keras as (in, out)."""
    _copy(theirs.weight, ours.kernel.numpy().T)
    _copy(theirs.bias, ours.bias.numpy())


def layer_norm(theirs, ours):
    """Gain and bias."""
    _copy(theirs.weight, ours.gamma.numpy())
    _copy(theirs.bias, ours.beta.numpy())


def attention(theirs, ours):
    """PyTorch keeps the kernels of query, key and value in one matrix."""
    projections = (ours.query_dense, ours.key_dense, ours.value_dense)
    _copy(theirs.in_proj_weight, np.concatenate([d.kernel.numpy().T for d in projections]))
    _copy(theirs.in_proj_bias, np.concatenate([d.bias.numpy() for d in projections]))
    dense(theirs.out_proj, ours.output_dense)


def encoder_layer(theirs, ours):
    """An `EncoderBlock` into a `torch.nn.TransformerEncoderLayer`."""
    attention(theirs.self_attn, ours.self_attention)
    dense(theirs.linear1, ours.feed_forward.intermediate_dense)
    dense(theirs.linear2, ours.feed_forward.output_dense)
    layer_norm(theirs.norm1, ours.attention_norm)
    layer_norm(theirs.norm2, ours.feed_forward_norm)


def decoder_layer(theirs, ours):
    """A `DecoderBlock` into a `torch.nn.TransformerDecoderLayer`."""
    encoder_layer(theirs, ours)
    attention(theirs.multihead_attn, ours.cross_attention)
    layer_norm(theirs.norm2, ours.cross_attention_norm)
    layer_norm(theirs.norm3, ours.feed_forward_norm)

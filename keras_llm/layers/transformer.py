"""The encoder block: self-attention, then a feed-forward network, each beside a shortcut.

Normalised after each sum as in the original transformer and BERT, or before each sub-layer
(`norm_first`) as in most later models.
"""

import keras
from keras import ops

from keras_llm.layers.attention import MultiHeadAttention, as_boolean
from keras_llm.layers.feed_forward import FeedForward


@keras.saving.register_keras_serializable(package="keras_llm")
class EncoderBlock(keras.layers.Layer):
    """One layer of a transformer encoder.

    "Attention Is All You Need" (Vaswani et al., 2017), section 3.1; pre-normalisation as in "On
    Layer Normalization in the Transformer Architecture" (Xiong et al., 2020).

    Args:
        hidden_dim: int, features of the input and the output.
        num_heads: int, attention heads; divides `hidden_dim`.
        intermediate_dim: int, features inside the feed-forward network.
        dropout: float in [0, 1), for the attention scores and the output of both sub-layers.
        norm_first: bool, whether to normalise each sub-layer's input (pre-norm) rather than its
            sum with the shortcut (post-norm).
        activation: name or function inside the feed-forward network.
        layer_norm_epsilon: float, added to the variance in layer normalisation.
        kernel_initializer: initializer of all kernels.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        x: float (batch, length, hidden_dim).
        padding_mask: bool (batch, length), True at real tokens: the others are attended to by
            none.
        attention_mask: bool (batch, length, length) as (batch, query, key), True = may attend;
            holds beside `padding_mask`.
        return_scores: bool, whether to return the scores (batch, heads, length, length) too.
        training: bool, whether dropout is on.

    Returns:
        Tensor (batch, length, hidden_dim), or the pair (output, scores).

    Raises:
        TypeError: a mask is not boolean.
        ValueError: `num_heads` does not divide `hidden_dim`; the input has not `hidden_dim`
            features.

    Example:
        >>> block = EncoderBlock(hidden_dim=8, num_heads=2, intermediate_dim=32)
        >>> x = keras.random.normal((1, 5, 8))
        >>> padding_mask = keras.ops.array([[True, True, True, False, False]])
        >>> tuple(block(x, padding_mask=padding_mask).shape)
        (1, 5, 8)
    """

    def __init__(
        self,
        hidden_dim,
        num_heads,
        intermediate_dim,
        dropout=0.1,
        norm_first=False,
        activation="gelu",
        layer_norm_epsilon=1e-5,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.norm_first = norm_first
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

        self.self_attention = MultiHeadAttention(
            hidden_dim,
            num_heads,
            dropout=dropout,
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name="self_attention",
        )
        self.attention_dropout = keras.layers.Dropout(
            dropout, dtype=self.dtype_policy, name="attention_dropout"
        )
        self.attention_norm = self._layer_norm("attention_norm")
        self.feed_forward = FeedForward(
            intermediate_dim,
            hidden_dim,
            activation=activation,
            dropout=dropout,
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name="feed_forward",
        )
        self.feed_forward_norm = self._layer_norm("feed_forward_norm")

    def _layer_norm(self, name):
        return keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name=name
        )

    def build(self, x_shape):
        """Creates the weights."""
        if x_shape[-1] != self.hidden_dim:
            raise ValueError(
                f"The block adds its input to its output of hidden_dim={self.hidden_dim} features, "
                f"so the input needs as many. Got an input of the shape {tuple(x_shape)}."
            )
        for layer in (
            self.self_attention,
            self.attention_norm,
            self.feed_forward,
            self.feed_forward_norm,
        ):
            layer.build(x_shape)
        self.built = True

    def call(self, x, padding_mask=None, attention_mask=None, return_scores=False, training=None):
        """Lets each position gather from the others, then transforms it."""
        attention_mask = _combine_masks(padding_mask, attention_mask)

        shortcut = x
        x = self.attention_norm(x) if self.norm_first else x
        x, scores = self.self_attention(
            x, attention_mask=attention_mask, return_scores=True, training=training
        )
        x = shortcut + self.attention_dropout(x, training=training)
        x = x if self.norm_first else self.attention_norm(x)

        shortcut = x
        x = self.feed_forward_norm(x) if self.norm_first else x
        x = shortcut + self.feed_forward(x, training=training)
        x = x if self.norm_first else self.feed_forward_norm(x)
        return (x, scores) if return_scores else x

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "norm_first": self.norm_first,
            "activation": keras.activations.serialize(self.feed_forward.activation),
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def _combine_masks(padding_mask, attention_mask):
    """Returns a mask (batch, 1 or query, key) of what neither mask hides, or None."""
    if padding_mask is None:
        return attention_mask
    padding_mask = as_boolean(padding_mask)
    if len(padding_mask.shape) != 2:
        raise ValueError(
            f"padding_mask must have the shape (batch, length). Got {tuple(padding_mask.shape)}."
        )
    padding_mask = padding_mask[:, None, :]  # (batch, 1, key)
    if attention_mask is None:
        return padding_mask
    return ops.logical_and(padding_mask, as_boolean(attention_mask))

"""The blocks of a transformer: attention, then a feed-forward network, each beside a shortcut.

Notable:
- an encoder block looks everywhere, a causal block at the past alone, a decoder block at the
  encoder's output too: each adds one thing to the one before;
- normalised after each sum as in the original transformer and BERT, or before each sub-layer
  (`norm_first`) as in most later models;
- what else models changed since is an argument: the norm, biases, the gate of the feed-forward
  network, and all that `MultiHeadAttention` takes.
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
        normalization: str, "layer", or "rms" for one without mean and bias ("Root Mean Square Layer
            Normalization", Zhang and Sennrich, 2019).
        use_bias: bool, whether the dense layers have a bias.
        gated: bool, whether the feed-forward network is gated.
        attention: dict, further arguments of `MultiHeadAttention`, such as `num_key_value_heads`,
            or a `use_bias` of its own.
        intermediate_dropout: float in [0, 1), for the features inside the feed-forward network.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        x: float (batch, length, hidden_dim).
        padding_mask: bool (batch, length), True at real tokens: the others are attended to by
            none.
        attention_mask: bool (batch, length, length) as (batch, query, key), True = may attend;
            holds beside `padding_mask`.
        position_bias: float, broadcastable to (batch, heads, length, length), added to the scores.
        return_scores: bool, whether to return the scores (batch, heads, length, length) too.
        training: bool, whether dropout is on.

    Returns:
        Tensor (batch, length, hidden_dim), or the pair (output, scores).

    Raises:
        TypeError: a mask is not boolean.
        ValueError: `num_heads` does not divide `hidden_dim`; the input has not `hidden_dim`
            features; another `normalization`.

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
        normalization="layer",
        use_bias=True,
        gated=False,
        attention=None,
        intermediate_dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if normalization not in ("layer", "rms"):
            raise ValueError(f'normalization must be "layer" or "rms", not {normalization!r}.')
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.norm_first = norm_first
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.normalization = normalization
        self.use_bias = use_bias
        self.gated = gated
        self.attention = attention

        self.self_attention = self._attention("self_attention")
        self.attention_dropout = keras.layers.Dropout(
            dropout, dtype=self.dtype_policy, name="attention_dropout"
        )
        self.attention_norm = self._norm("attention_norm")
        self.feed_forward = FeedForward(
            intermediate_dim,
            hidden_dim,
            activation=activation,
            dropout=dropout,
            kernel_initializer=self.kernel_initializer,
            use_bias=use_bias,
            gated=gated,
            intermediate_dropout=intermediate_dropout,
            dtype=self.dtype_policy,
            name="feed_forward",
        )
        self.feed_forward_norm = self._norm("feed_forward_norm")

    def _attention(self, name):
        return MultiHeadAttention(
            self.hidden_dim,
            self.num_heads,
            dropout=self.dropout,
            kernel_initializer=self.kernel_initializer,
            **{"use_bias": self.use_bias, **(self.attention or {})},
            dtype=self.dtype_policy,
            name=name,
        )

    def _norm(self, name):
        norms = {
            "layer": keras.layers.LayerNormalization,
            "rms": keras.layers.RMSNormalization,
        }
        return norms[self.normalization](
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

    def call(
        self,
        x,
        padding_mask=None,
        attention_mask=None,
        position_bias=None,
        return_scores=False,
        training=None,
    ):
        """Lets each position gather from the others, then transforms it."""
        x, scores = self._attend_to_itself(
            x,
            training,
            attention_mask=_combine_masks(padding_mask, attention_mask),
            position_bias=position_bias,
        )
        x = self._transform(x, training)
        return (x, scores) if return_scores else x

    def _attend_to_itself(self, x, training, **arguments):
        """Lets each position gather from the others; returns the scores and new cache too."""

        def attend(x):
            x, *extras = self.self_attention(x, return_scores=True, training=training, **arguments)
            return self.attention_dropout(x, training=training), *extras

        return self._beside_shortcut(x, attend, self.attention_norm)

    def _transform(self, x, training):
        """Puts each position through the feed-forward network."""
        (x,) = self._beside_shortcut(
            x, lambda x: (self.feed_forward(x, training=training),), self.feed_forward_norm
        )
        return x

    def _beside_shortcut(self, x, sub_layer, norm):
        """Adds a sub-layer's output to its input; returns the sum and what else it gives."""
        output, *extras = sub_layer(norm(x) if self.norm_first else x)
        x = x + output
        return x if self.norm_first else norm(x), *extras

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
            "normalization": self.normalization,
            "use_bias": self.use_bias,
            "gated": self.gated,
            "attention": self.attention,
            "intermediate_dropout": self.feed_forward.intermediate_dropout,
        }


@keras.saving.register_keras_serializable(package="keras_llm")
class CausalBlock(EncoderBlock):
    """One layer of a decoder that stands alone, as GPT's: it attends to the past.

    "Improving Language Understanding by Generative Pre-Training" (Radford et al., 2018), section
    3.1: the decoder of the transformer without an encoder to look at.

    Args:
        hidden_dim: int, features of the input and the output.
        num_heads: int, attention heads; divides `hidden_dim`.
        intermediate_dim: int, features inside the feed-forward network.
        **kwargs: the further arguments of `EncoderBlock`.

    Call arguments:
        x: float (batch, length, hidden_dim). A position attends to itself and those before it.
        padding_mask: bool (batch, length), True at real tokens; with a cache, of the cache's
            `max_length` positions.
        attention_mask: bool (batch, length, key), True = may attend; holds beside `padding_mask`.
        position_bias: float, broadcastable to (batch, heads, length, key), added to the scores.
        cache: float (batch, 2, key_value_heads, max_length, depth), keys and values of the
            positions before `cache_index`; zeros to begin with.
        cache_index: int or int scalar tensor, position of the first of `x` in the cache.
        return_scores: bool, whether to return the scores (batch, heads, length, key) too.
        training: bool, whether dropout is on.

    Returns:
        The output (batch, length, hidden_dim), followed by the scores where `return_scores` is set
        and by the updated cache where a cache is given.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: shapes do not fit.

    Example:
        >>> block = CausalBlock(hidden_dim=8, num_heads=2, intermediate_dim=32)
        >>> x = keras.random.normal((1, 5, 8))
        >>> cache = keras.ops.zeros((1, 2, 2, 5, 4))
        >>> first, cache = block(x[:, :3], cache=cache, cache_index=0)
        >>> second, cache = block(x[:, 3:], cache=cache, cache_index=3)
        >>> bool(keras.ops.all(abs(second - block(x)[:, 3:]) < 1e-5))
        True
    """

    def call(
        self,
        x,
        padding_mask=None,
        attention_mask=None,
        position_bias=None,
        cache=None,
        cache_index=None,
        return_scores=False,
        training=None,
    ):
        """Lets each position gather from those before it, then transforms it."""
        x, scores, *new_cache = self._attend_to_itself(
            x,
            training,
            attention_mask=_combine_masks(padding_mask, attention_mask),
            position_bias=position_bias,
            causal=True,
            cache=cache,
            cache_index=cache_index,
        )
        x = self._transform(x, training)
        extras = ([scores] if return_scores else []) + new_cache
        return (x, *extras) if extras else x


@keras.saving.register_keras_serializable(package="keras_llm")
class DecoderBlock(EncoderBlock):
    """One layer of a transformer decoder: between the two sub-layers it looks at the encoder.

    "Attention Is All You Need" (Vaswani et al., 2017), section 3.1: masked self-attention,
    cross-attention to the encoder's output, feed-forward network.

    Args:
        hidden_dim: int, features of the input and the output.
        num_heads: int, attention heads; divides `hidden_dim`.
        intermediate_dim: int, features inside the feed-forward network.
        **kwargs: the further arguments of `EncoderBlock`.

    Call arguments:
        x: float (batch, target, hidden_dim). A position attends to itself and those before it.
        encoder_output: float (batch, source, hidden_dim), what cross-attention looks at. Not
            needed with a `cross_cache`.
        padding_mask: bool (batch, target), True at real tokens; with a cache, of the cache's
            `max_length` positions.
        encoder_padding_mask: bool (batch, source), True at real tokens.
        position_bias: float, broadcastable to (batch, heads, target, key), added to the scores of
            self-attention.
        cache: float (batch, 2, heads, max_length, depth), keys and values of self-attention at the
            positions before `cache_index`; zeros to begin with.
        cache_index: int or int scalar tensor, position of the first of `x` in the cache.
        cross_cache: float (batch, 2, key_value_heads, source, depth), keys and values of the
            encoder's output: `block.cross_attention.keys_and_values(encoder_output)`.
        return_scores: bool, whether to return the scores of self-attention (batch, heads, target,
            target) and cross-attention (batch, heads, target, source) too.
        training: bool, whether dropout is on.

    Returns:
        The output (batch, target, hidden_dim), followed by both scores where `return_scores` is
        set and by the updated cache where a cache is given.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: neither `encoder_output` nor `cross_cache` is given; shapes do not fit.

    Example:
        >>> block = DecoderBlock(hidden_dim=8, num_heads=2, intermediate_dim=32)
        >>> source, target = keras.random.normal((1, 7, 8)), keras.random.normal((1, 5, 8))
        >>> output, self_scores, cross_scores = block(target, source, return_scores=True)
        >>> tuple(output.shape), tuple(self_scores.shape), tuple(cross_scores.shape)
        ((1, 5, 8), (1, 2, 5, 5), (1, 2, 5, 7))
    """

    def __init__(self, hidden_dim, num_heads, intermediate_dim, **kwargs):
        super().__init__(hidden_dim, num_heads, intermediate_dim, **kwargs)
        self.cross_attention = self._attention("cross_attention")
        self.cross_attention_dropout = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy, name="cross_attention_dropout"
        )
        self.cross_attention_norm = self._norm("cross_attention_norm")

    def build(self, x_shape, encoder_output_shape=None):
        """Creates the weights."""
        super().build(x_shape)
        self.cross_attention.build(x_shape, encoder_output_shape)
        self.cross_attention_norm.build(x_shape)

    def call(
        self,
        x,
        encoder_output=None,
        padding_mask=None,
        encoder_padding_mask=None,
        position_bias=None,
        cache=None,
        cache_index=None,
        cross_cache=None,
        return_scores=False,
        training=None,
    ):
        """Lets each position gather from those before it, then from the encoder's output."""
        if encoder_output is None and cross_cache is None:
            raise ValueError(
                "A decoder block needs the encoder's output, or a cross_cache with its keys and "
                "values."
            )
        cross_mask = _combine_masks(encoder_padding_mask, None)

        def attend_to_the_encoder(x):
            x, scores = self.cross_attention(
                x,
                encoder_output,
                attention_mask=cross_mask,
                cache=cross_cache,
                return_scores=True,
                training=training,
            )
            return self.cross_attention_dropout(x, training=training), scores

        x, scores, *new_cache = self._attend_to_itself(
            x,
            training,
            attention_mask=_combine_masks(padding_mask, None),
            position_bias=position_bias,
            causal=True,
            cache=cache,
            cache_index=cache_index,
        )
        x, cross_scores = self._beside_shortcut(x, attend_to_the_encoder, self.cross_attention_norm)
        x = self._transform(x, training)

        extras = [scores, cross_scores] if return_scores else []
        extras += new_cache
        return (x, *extras) if extras else x


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

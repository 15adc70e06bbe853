"""Scaled dot-product and multi-head attention ("Attention Is All You Need", section 3.2).

Notable:
- plain matrix products on (batch, heads, length, depth): faster on CPU than einsum;
- the softmax is taken in float32 even when everything else is in half precision;
- a query that may attend to nothing gets zeros, not NaN and not an average of what is hidden;
- masks are boolean, True = may attend; any other type is refused, never inverted silently;
- heads may share keys and values (grouped-query attention), and positions may enter by turning
  queries and keys or as a bias on the scores: what models changed since, each one argument;
- a cache of keys and values, so that text is generated without computing the past again.
"""

import keras
from keras import ops

from keras_llm.layers.positions import RotaryEmbedding

# The score of a hidden position. Finite: softmax of a row of -infinity would be NaN.
HIDDEN_SCORE = -1e30


def scaled_dot_product_attention(q, k, v, mask=None, return_scores=False):
    """Lets every query gather the values whose keys resemble it: `softmax(q k^T / sqrt(depth)) v`.

    "Attention Is All You Need" (Vaswani et al., 2017), section 3.2.1, equation 1.

    The classic TensorFlow tutorial has a function of the same name and arguments whose mask is a
    float, 1 where a position is HIDDEN. Here a mask is boolean, True where a position may be
    attended to: convert the tutorial's with `mask == 0`.

    Args:
        q: queries, float (..., query, depth). Tensor, array or nested list, as `k` and `v`.
        k: keys, float (..., key, depth).
        v: values, float (..., key, value_depth).
        mask: bool, broadcastable to (..., query, key), True = may attend; None = all may.
        return_scores: bool, whether to return the attention scores too.

    Returns:
        The output (..., query, value_depth), or the pair (output, scores) with scores
        (..., query, key). Each row of scores sums to 1, or is all zeros (and so is its output)
        where the query may attend to nothing.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the shapes do not fit together.

    Example:
        >>> q = [[1.0, 0.0]]
        >>> k = [[1.0, 0.0], [0.0, 1.0]]
        >>> output, scores = scaled_dot_product_attention(q, k, k, return_scores=True)
        >>> print(keras.ops.convert_to_numpy(scores).round(2))
        [[0.67 0.33]]
        >>> print(keras.ops.convert_to_numpy(
        ...     scaled_dot_product_attention(q, k, k, mask=[[False, True]])))
        [[0. 1.]]
    """
    q, k, v = (ops.convert_to_tensor(x) for x in (q, k, v))
    _check_shapes(q, k, v)
    dtype = keras.backend.result_type(q.dtype, k.dtype, v.dtype, float)
    q, k, v = (ops.cast(x, dtype) for x in (q, k, v))

    scores = attention_scores(q, k, mask)  # (..., query, key)
    output = ops.matmul(scores, v)  # (..., query, value_depth)
    return (output, scores) if return_scores else output


def attention_scores(q, k, mask=None, bias=None, scaled=True):
    """Gives how much each query attends to each key: `softmax(q k^T / sqrt(depth) + bias)`.

    Args:
        q: queries, float (..., query, depth).
        k: keys, of the same type, (..., key, depth).
        mask: bool, broadcastable to (..., query, key), True = may attend; None = all may.
        bias: float, broadcastable to (..., query, key), added before the softmax, or None.
        scaled: bool, whether to divide by the root of the depth.

    Returns:
        Tensor (..., query, key) of the type of `q`; the rows sum to 1, or are zeros where a
        query may attend to nothing.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the mask does not broadcast to (..., query, key).

    Example:
        >>> q = k = keras.ops.zeros((1, 4, 2))
        >>> print(keras.ops.convert_to_numpy(attention_scores(q, k)[0, 0]))
        [0.25 0.25 0.25 0.25]
    """
    # Scaling the queries, not the scores, keeps float16 from overflowing in the product.
    scale = q.shape[-1] ** -0.5 if scaled else 1.0
    scores = ops.matmul(q * scale, ops.swapaxes(k, -1, -2))  # (..., query, key)
    scores = ops.cast(scores, keras.backend.result_type(scores.dtype, "float32"))
    if bias is not None:
        scores = scores + ops.cast(bias, scores.dtype)
    if mask is None:
        return ops.cast(_softmax(scores), q.dtype)

    mask = as_boolean(mask)
    _check_broadcast(mask.shape, scores.shape)
    scores = _softmax(ops.where(mask, scores, HIDDEN_SCORE))
    may_attend = ops.any(mask, axis=-1, keepdims=True)  # (..., query, 1)
    return ops.cast(ops.where(may_attend, scores, 0.0), q.dtype)


def _softmax(scores):
    # With a single key its share is 1, whatever the score; Keras warns of such a softmax.
    return ops.ones_like(scores) if scores.shape[-1] == 1 else ops.softmax(scores)


def causal_mask(query_length, key_length, start=0):
    """Hides the future: the query at position `start + i` may attend to the keys 0 .. start + i.

    Args:
        query_length: int, number of queries.
        key_length: int, number of keys.
        start: int or scalar tensor, position of the first query among the keys.

    Returns:
        Boolean tensor (query, key), True = may attend.

    Example:
        >>> print(keras.ops.convert_to_numpy(causal_mask(2, 3, start=1)))
        [[ True  True False]
         [ True  True  True]]
    """
    query_positions = start + ops.arange(query_length)  # (query,)
    return ops.arange(key_length) <= query_positions[:, None]  # (query, key)


def as_boolean(mask):
    """Refuses a mask that is not boolean: whether 1 means hidden or visible is not to be guessed.

    Args:
        mask: tensor, array or nested list of any shape.

    Returns:
        The mask as a boolean tensor.

    Raises:
        TypeError: the mask is not boolean.

    Example:
        >>> as_boolean([[1.0, 0.0]])
        Traceback (most recent call last):
        ...
        TypeError: A mask must be boolean, True where a position may be attended to; got float32...
    """
    mask = ops.convert_to_tensor(mask)
    dtype = keras.backend.standardize_dtype(mask.dtype)
    if dtype != "bool":
        raise TypeError(
            f"A mask must be boolean, True where a position may be attended to; got {dtype}. The "
            "float mask of the classic TensorFlow tutorial is 1 where a position is HIDDEN: "
            "convert it with `mask == 0`. Convert a mask that is 1 where a position is visible "
            "with `mask == 1`."
        )
    return mask


@keras.saving.register_keras_serializable(package="keras_llm")
class MultiHeadAttention(keras.layers.Layer):
    """Attends `num_heads` times in parallel, each time in a learned subspace of its own.

    "Attention Is All You Need" (Vaswani et al., 2017), section 3.2.2; heads that share keys and
    values as in "GQA" (Ainslie et al., 2023), section 2.2.

    Args:
        hidden_dim: int, features of the output.
        num_heads: int, number of heads.
        dropout: float in [0, 1), the share of attention scores set to zero in training.
        kernel_initializer: initializer of the four kernels.
        num_key_value_heads: int, heads of the keys and values; divides `num_heads`. By default as
            many. Fewer make a smaller cache: each serves a group of query heads.
        head_dim: int, the depth of each head; by default `hidden_dim / num_heads`.
        use_bias: bool, whether the four dense layers have a bias.
        scaled: bool, whether scores are divided by the root of the depth. T5 does without.
        rotary: dict of arguments of `RotaryEmbedding`, which then turns queries and keys by their
            positions; None for no turning.
        query_initializer: initializer of the query's kernel, where it is not `kernel_initializer`.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        query: float (batch, query, features).
        value: float (batch, key, features); by default `query`: self-attention.
        key: float (batch, key, features); by default `value`.
        attention_mask: bool (batch, query, key), or (batch, 1, key) for all queries alike,
            True = may attend.
        causal: bool, whether a position may not attend to later ones (beside `attention_mask`).
        position_bias: float, broadcastable to (batch, heads, query, key), added to the scores.
        return_scores: bool, whether to return the scores (batch, heads, query, key) too.
        cache: float (batch, 2, key_value_heads, max_length, depth), keys and values. With
            `cache_index`, those of the positions before it; zeros to begin with. Attention is then
            over the cache's `max_length` positions and always causal: a slot not yet written is in
            the future. Without `cache_index`, all there are, from `keys_and_values`; `value` and
            `key` are not looked at: cross-attention to a text that does not change.
        cache_index: int or int scalar tensor, position of the first query in the cache.
        training: bool, whether dropout is on.

    Returns:
        The output (batch, query, hidden_dim), followed by the scores where `return_scores` is
        set and by the updated cache where a `cache_index` is given: `output`, `(output, scores)`,
        `(output, cache)` or `(output, scores, cache)`.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: `num_heads` does not divide `hidden_dim`, nor `num_key_value_heads`
            `num_heads`; shapes do not fit; the tokens do not fit into the cache.

    Example:
        >>> attention = MultiHeadAttention(hidden_dim=8, num_heads=2)
        >>> x = keras.random.normal((1, 5, 8))
        >>> output, scores = attention(x, causal=True, return_scores=True)
        >>> tuple(output.shape), tuple(scores.shape)
        ((1, 5, 8), (1, 2, 5, 5))
    """

    def __init__(
        self,
        hidden_dim,
        num_heads,
        dropout=0.0,
        kernel_initializer="glorot_uniform",
        num_key_value_heads=None,
        head_dim=None,
        use_bias=True,
        scaled=True,
        rotary=None,
        query_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        num_key_value_heads = num_key_value_heads or num_heads
        if num_heads < 1 or hidden_dim < 1 or (head_dim is None and hidden_dim % num_heads):
            raise ValueError(
                "hidden_dim must be a positive multiple of num_heads, as every head gets "
                f"hidden_dim / num_heads features. Got hidden_dim={hidden_dim}, "
                f"num_heads={num_heads}. Another depth of the heads is set by head_dim."
            )
        if num_heads % num_key_value_heads:
            raise ValueError(
                f"num_heads={num_heads} must be a multiple of num_key_value_heads="
                f"{num_key_value_heads}: each head of keys and values serves a group of heads."
            )
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim or hidden_dim // num_heads
        self.use_bias = use_bias
        self.scaled = scaled
        self.rotary = rotary
        self.query_initializer = keras.initializers.get(query_initializer)

        self.query_dense = self._dense(
            "query_dense", num_heads * self.head_dim, self.query_initializer
        )
        self.key_dense = self._dense("key_dense", num_key_value_heads * self.head_dim)
        self.value_dense = self._dense("value_dense", num_key_value_heads * self.head_dim)
        self.output_dense = self._dense("output_dense", hidden_dim)
        self.rotary_embedding = None
        if rotary is not None:
            self.rotary_embedding = RotaryEmbedding(
                **rotary, dtype=self.dtype_policy, name="rotary_embedding"
            )
        self.scores_dropout = keras.layers.Dropout(
            dropout, dtype=self.dtype_policy, name="scores_dropout"
        )

    def _dense(self, name, units, initializer=None):
        return keras.layers.Dense(
            units,
            use_bias=self.use_bias,
            # One initializer gives the same values at every call; its clone draws others.
            kernel_initializer=(initializer or self.kernel_initializer).clone(),
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, query_shape, value_shape=None, key_shape=None):
        """Creates the weights."""
        value_shape = value_shape or query_shape
        self.query_dense.build(query_shape)
        self.key_dense.build(key_shape or value_shape)
        self.value_dense.build(value_shape)
        self.output_dense.build((*query_shape[:-1], self.num_heads * self.head_dim))
        self.built = True

    def call(
        self,
        query,
        value=None,
        key=None,
        attention_mask=None,
        causal=False,
        position_bias=None,
        return_scores=False,
        cache=None,
        cache_index=None,
        training=None,
    ):
        """Lets each position of `query` gather from `value`."""
        value = query if value is None else value
        start = 0 if cache_index is None else cache_index
        query = self._turn(self._split_heads(self.query_dense(query)), start)
        if cache_index is not None:
            update = self.keys_and_values(value, key, start)
            cache = self._write_cache(cache, cache_index, update)
        if cache is not None:
            key, value = cache[:, 0], cache[:, 1]  # (batch, key_value_heads, max_length, depth)
        else:
            key, value = self._project(value, key)  # (batch, key_value_heads, key, depth)
        # Each head of keys and values stands for its group: (batch, heads, key, depth)
        key, value = self._repeat(key), self._repeat(value)
        _check_shapes(query, key, value)

        mask = self._mask(attention_mask, query, key, causal, cache_index)
        scores = attention_scores(query, key, mask, position_bias, self.scaled)
        output = ops.matmul(self.scores_dropout(scores, training=training), value)
        output = self.output_dense(self._merge_heads(output))  # (batch, query, hidden_dim)

        extras = (scores,) if return_scores else ()
        extras += (cache,) if cache_index is not None else ()
        return (output, *extras) if extras else output

    def keys_and_values(self, value, key=None, start_index=0):
        """Projects what is attended to, so that many calls can share the work.

        Args:
            value: float (batch, key, features).
            key: float (batch, key, features); by default `value`.
            start_index: int or int scalar tensor, position of the first key, where keys are turned.

        Returns:
            Tensor (batch, 2, key_value_heads, key, depth), a `cache` for calls without
            `cache_index`.

        Example:
            >>> attention = MultiHeadAttention(hidden_dim=8, num_heads=2)
            >>> x, memory = keras.random.normal((1, 5, 8)), keras.random.normal((1, 3, 8))
            >>> output = attention(x, memory)
            >>> cached = attention(x, cache=attention.keys_and_values(memory))
            >>> bool(keras.ops.all(output == cached))
            True
        """
        return ops.stack(self._project(value, key, start_index), axis=1)

    def _project(self, value, key, start_index=0):
        key = value if key is None else key
        key = self._turn(self._split_heads(self.key_dense(key)), start_index)
        value = self._split_heads(self.value_dense(value))  # (batch, key_value_heads, key, depth)
        _check_shapes(key, key, value)
        return key, value

    def _turn(self, x, start_index):
        """Turns queries or keys (batch, heads, length, depth) by their positions."""
        if self.rotary_embedding is None:
            return x
        return self.rotary_embedding(x, start_index=start_index)

    def _repeat(self, x):
        groups = self.num_heads // self.num_key_value_heads
        return x if groups == 1 else ops.repeat(x, groups, axis=1)

    def _split_heads(self, x):
        batch, length, features = ops.shape(x)
        x = ops.reshape(x, (batch, length, features // self.head_dim, self.head_dim))
        return ops.transpose(x, (0, 2, 1, 3))  # (batch, heads, length, depth)

    def _merge_heads(self, x):
        x = ops.transpose(x, (0, 2, 1, 3))  # (batch, length, heads, depth)
        batch, length, _, _ = ops.shape(x)
        return ops.reshape(x, (batch, length, self.num_heads * self.head_dim))

    def _write_cache(self, cache, cache_index, update):
        """Writes the keys and values `update` (batch, 2, heads, length, depth) from an index on."""
        if cache is None:
            raise ValueError(
                "cache_index says where in a cache to write, but there is no cache: pass one, of "
                "zeros to begin with, or neither."
            )
        length, max_length = update.shape[3], cache.shape[3]
        is_static = isinstance(cache_index, int) and None not in (length, max_length)
        if is_static and not 0 <= cache_index <= max_length - length:
            raise ValueError(
                f"{length} tokens from position {cache_index} do not fit into a cache of "
                f"{max_length} positions. Make a longer cache or stop earlier."
            )
        return ops.slice_update(cache, (0, 0, 0, cache_index, 0), update)

    def _mask(self, attention_mask, query, key, causal, cache_index):
        """Combines what the caller hides with the future; None when nothing is hidden."""
        mask = None
        if attention_mask is not None:
            mask = as_boolean(attention_mask)
            if len(mask.shape) != 3:
                raise ValueError(
                    "attention_mask must have the shape (batch, query, key), or (batch, 1, key). "
                    f"Got {tuple(mask.shape)}. Make a padding mask (batch, key) fit with "
                    "padding_mask[:, None, :]."
                )
            mask = mask[:, None]  # (batch, 1, query, key)
        if causal or cache_index is not None:
            start = 0 if cache_index is None else cache_index
            past = causal_mask(ops.shape(query)[2], ops.shape(key)[2], start)  # (query, key)
            mask = past if mask is None else ops.logical_and(mask, past)
        return mask

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "use_bias": self.use_bias,
            "scaled": self.scaled,
            "rotary": self.rotary,
            "query_initializer": keras.initializers.serialize(self.query_initializer),
        }


def _check_broadcast(mask_shape, scores_shape):
    pairs = zip(reversed(mask_shape), reversed(scores_shape), strict=False)
    fits = all(None in pair or pair[0] in (1, pair[1]) for pair in pairs)
    if len(mask_shape) > len(scores_shape) or not fits:
        raise ValueError(
            f"The mask's shape {tuple(mask_shape)} does not broadcast to the scores' shape "
            f"(..., query, key) = {tuple(scores_shape)}."
        )


def _check_shapes(q, k, v):
    if min(len(q.shape), len(k.shape), len(v.shape)) < 2:
        problem = "each needs at least 2 dimensions (length, depth)"
    elif _differ(q.shape[-1], k.shape[-1]):
        problem = "queries and keys must have the same depth (last dimension)"
    elif _differ(k.shape[-2], v.shape[-2]):
        problem = "there must be one value for each key (last dimension but one)"
    else:
        return
    raise ValueError(
        f"q, k and v do not fit together: {problem}. Got q {tuple(q.shape)}, k {tuple(k.shape)}, "
        f"v {tuple(v.shape)}."
    )


def _differ(length, other):
    return None not in (length, other) and length != other

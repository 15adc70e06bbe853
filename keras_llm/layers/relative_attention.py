"""Attention by relative positions, with a memory and two streams (Transformer-XL, XLNet).

Notable:
- positions are told by the distance between query and key, so a text can be read piece by piece:
  what was read before is a memory of hidden states that lies in front of the keys;
- the query stream knows where a token stands but not what it is, and learns to guess it; the
  content stream knows both. They share all weights, so they are one sequence, content first, with a
  mask in which a content position sees itself and a query does not;
- the score of a pair is looked up by its distance. That replaces the shift of the papers' code by
  one gather, which also serves queries at any positions.
"""

import keras
from keras import ops

from keras_llm.layers.attention import MultiHeadAttention, as_boolean, attention_scores
from keras_llm.layers.blocks import EncoderBlock
from keras_llm.layers.positions import SinePositionEncoding


@keras.saving.register_keras_serializable(package="keras_llm")
class RelativeMultiHeadAttention(MultiHeadAttention):
    r"""Attends by content, by distance and by whether two tokens are of the same segment.

    "Transformer-XL" (Dai et al., 2019), section 3.3, and "XLNet" (Yang et al., 2019), section 2.5.
    The score of query $i$ and key $j$ is, before the softmax and divided by the root of the depth,

    $$ (q_i + b_{content}) \cdot k_j + (q_i + b_{position}) \cdot W_R R_{i-j}
       + (q_i + b_{segment}) \cdot s_{ij} $$

    where $R_{i-j}$ encodes the distance and $s_{ij}$ is one of two learned vectors.

    Args:
        hidden_dim: int, features of the output.
        num_heads: int, number of heads.
        dropout: float in [0, 1), the share of attention scores set to zero in training.
        kernel_initializer: initializer of the kernels, the three biases and the segment vectors.
        use_bias: bool, whether the dense layers have a bias.
        **kwargs: `head_dim` of `MultiHeadAttention`; `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        query: float (batch, query, features).
        relative_encoding: float (distances, hidden_dim), an encoding of each distance.
        relative_index: int (batch or 1, query, key), which of these each pair has.
        different_segment: bool (batch, query, key), True where the two tokens are of different
            segments.
        attention_mask: bool (batch, query, key), True = may attend; None = all may.
        value: float (batch, key, features); by default `query`: self-attention.
        return_scores: bool, whether to return the scores (batch, heads, query, key) too.
        training: bool, whether dropout is on.

    Returns:
        The output (batch, query, hidden_dim), or the pair of it and the scores.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: `num_heads` does not divide `hidden_dim`; shapes do not fit.

    Example:
        >>> attention = RelativeMultiHeadAttention(hidden_dim=8, num_heads=2)
        >>> x, segments = keras.random.normal((1, 5, 8)), keras.ops.array([[0, 0, 0, 1, 1]])
        >>> context = RelativeContext(8)(segments == segments, segments)
        >>> tuple(attention(x, **context).shape)
        (1, 5, 8)
    """

    def __init__(
        self,
        hidden_dim,
        num_heads,
        dropout=0.0,
        kernel_initializer="glorot_uniform",
        use_bias=False,
        **kwargs,
    ):
        super().__init__(
            hidden_dim, num_heads, dropout, kernel_initializer, use_bias=use_bias, **kwargs
        )
        self.position_dense = self._dense("position_dense", self.num_heads * self.head_dim)

    def build(self, query_shape, value_shape=None):
        """Creates the weights."""
        super().build(query_shape, value_shape)
        self.position_dense.build((None, self.hidden_dim))
        self.content_bias = self._vectors("content_bias", self.num_heads)
        self.position_bias = self._vectors("position_bias", self.num_heads)
        self.segment_bias = self._vectors("segment_bias", self.num_heads)
        self.segment_embeddings = self._vectors("segment_embeddings", 2, self.num_heads)

    def _vectors(self, name, *shape):
        return self.add_weight(
            name=name,
            shape=(*shape, self.head_dim),
            initializer=self.kernel_initializer.clone(),
        )

    def call(
        self,
        query,
        relative_encoding,
        relative_index,
        different_segment,
        attention_mask=None,
        value=None,
        return_scores=False,
        training=None,
    ):
        """Lets each position of `query` gather from `value`."""
        value = query if value is None else value
        query = self._split_heads(self.query_dense(query))  # (batch, heads, query, depth)
        key = self._split_heads(self.key_dense(value))  # (batch, heads, key, depth)
        value = self._split_heads(self.value_dense(value))  # (batch, heads, key, depth)

        # Scaling the queries, not the scores, keeps float16 from overflowing in the products.
        def plus(bias):
            return (query + ops.expand_dims(bias, 1)) * self.head_dim**-0.5

        distances = self._split_heads(self.position_dense(relative_encoding)[None])
        bias = ops.matmul(plus(self.position_bias), ops.swapaxes(distances, 2, 3))
        bias = ops.take_along_axis(bias, relative_index[:, None], axis=3)
        segments = ops.transpose(self.segment_embeddings, (1, 2, 0))  # (heads, depth, 2)
        same, different = ops.split(ops.matmul(plus(self.segment_bias), segments), 2, axis=3)
        bias = bias + ops.where(different_segment[:, None], different, same)

        mask = None if attention_mask is None else as_boolean(attention_mask)[:, None]
        scores = attention_scores(plus(self.content_bias), key, mask, bias, scaled=False)
        output = ops.matmul(self.scores_dropout(scores, training=training), value)
        output = self.output_dense(self._merge_heads(output))  # (batch, query, hidden_dim)
        return (output, scores) if return_scores else output


@keras.saving.register_keras_serializable(package="keras_llm")
class RelativeContext(keras.layers.Layer):
    """Finds who may attend to whom, from which distance and segment: the same for all blocks.

    Positions are `length` of content, followed by those of the query stream; keys are those of the
    memory, followed by the content.

    Args:
        hidden_dim: int, features of the encoding of a distance.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        padding_mask: bool (batch, length), True at real tokens.
        segment_ids: int (batch, length).
        attention_mask: bool (batch, length, length), True where position i may attend to j, or
            None: all may. Its diagonal does not count.
        query_positions: int (batch, predictions), where the query stream's tokens stand, or None
            for the content stream alone.
        memory: dict of `padding_mask` and `segment_ids` (batch, memory), of what was read before,
            or None. All positions may attend to it.

    Returns:
        A dict of the arguments of `RelativeMultiHeadAttention`: `relative_encoding`,
        `relative_index`, `attention_mask` and `different_segment`.

    Raises:
        TypeError: a mask is not boolean.

    Example:
        >>> context = RelativeContext(hidden_dim=8)(
        ...     padding_mask=keras.ops.array([[True, True, False]]),
        ...     segment_ids=keras.ops.array([[0, 0, 0]]),
        ...     query_positions=keras.ops.array([[1]]),
        ... )
        >>> print(keras.ops.convert_to_numpy(context["attention_mask"][0]))
        [[ True  True False]
         [ True  True False]
         [ True  True  True]
         [ True False False]]
        >>> print(keras.ops.convert_to_numpy(context["relative_index"][0] - 2))  # distances
        [[ 0 -1 -2]
         [ 1  0 -1]
         [ 2  1  0]
         [ 1  0 -1]]
    """

    def __init__(self, hidden_dim, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.position_encoding = SinePositionEncoding(
            dtype=self.dtype_policy, name="position_encoding"
        )

    def call(
        self,
        padding_mask,
        segment_ids,
        attention_mask=None,
        query_positions=None,
        memory=None,
    ):
        """Returns the arguments of the attention of each block."""
        padding_mask = as_boolean(padding_mask)
        batch, length = ops.shape(padding_mask)
        real, key_segments = padding_mask, segment_ids
        if memory is not None:
            real = ops.concatenate([as_boolean(memory["padding_mask"]), real], axis=1)
            key_segments = ops.concatenate([memory["segment_ids"], segment_ids], axis=1)
        keys = ops.shape(real)[1]
        start = keys - length  # the key of the first content position

        # The position of every query of both streams. (batch, query)
        positions = ops.broadcast_to(ops.arange(length), (batch, length))
        if query_positions is not None:
            query_positions = ops.cast(query_positions, positions.dtype)
            positions = ops.concatenate([positions, query_positions], axis=1)
        distances = (start + positions)[:, :, None] - ops.arange(keys)  # (batch, query, key)

        may_attend = real[:, None]  # (batch, 1, key)
        if attention_mask is not None:
            attention_mask = as_boolean(attention_mask)
            past = ops.ones((batch, length, start), "bool")
            visible = ops.concatenate([past, attention_mask], axis=2)  # (batch, length, key)
            visible = ops.take_along_axis(visible, positions[:, :, None], axis=1)
            may_attend = ops.logical_and(may_attend, visible)  # (batch, query, key)
        # Content sees itself, even where it is padding: no row is empty. A query never does.
        is_content = ops.arange(ops.shape(positions)[1]) < length
        may_attend = ops.where(distances == 0, is_content[:, None], may_attend)

        encoding = ops.zeros((length + keys - 1, self.hidden_dim), self.compute_dtype)
        segments = ops.take_along_axis(segment_ids, positions, axis=1)  # (batch, query)
        return {
            "relative_encoding": self.position_encoding(encoding, start_index=1 - length),
            "relative_index": distances + (length - 1),
            "different_segment": ops.not_equal(segments[:, :, None], key_segments[:, None]),
            "attention_mask": may_attend,
        }

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "hidden_dim": self.hidden_dim}


@keras.saving.register_keras_serializable(package="keras_llm")
class TwoStreamBlock(EncoderBlock):
    r"""One layer of XLNet: relative attention and feed-forward network, for one stream or both.

    "XLNet" (Yang et al., 2019), section 2.3 and appendix A.2. With $h$ the content and $g$ the
    query stream, $z$ the order of factorization and the same weights in both lines,

    $$ g_{z_t} \leftarrow \mathrm{Attention}(Q = g_{z_t}, KV = h_{z_{<t}}) $$
    $$ h_{z_t} \leftarrow \mathrm{Attention}(Q = h_{z_t}, KV = h_{z_{\le t}}) $$

    Args:
        hidden_dim: int, features of the input and the output.
        num_heads: int, attention heads; divides `hidden_dim`.
        intermediate_dim: int, features inside the feed-forward network.
        **kwargs: the further arguments of `EncoderBlock`; `use_bias` is of the feed-forward
            network.

    Call arguments:
        streams: float (batch, length + predictions, hidden_dim): the content stream, followed by
            the query stream where there is one.
        context: dict of tensors, as `RelativeContext` makes it.
        memory: float (batch, memory, hidden_dim), the content that this block got at the positions
            before, or None.
        training: bool, whether dropout is on.

    Returns:
        Tensor of the shape of `streams`.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: `num_heads` does not divide `hidden_dim`; shapes do not fit.

    Example:
        >>> block = TwoStreamBlock(hidden_dim=8, num_heads=2, intermediate_dim=32)
        >>> segments, positions = keras.ops.array([[0, 0, 0, 1, 1]]), keras.ops.array([[1, 3]])
        >>> context = RelativeContext(8)(segments < 2, segments, query_positions=positions)
        >>> tuple(block(keras.random.normal((1, 5 + 2, 8)), context).shape)
        (1, 7, 8)
    """

    def _attention(self, name):
        return RelativeMultiHeadAttention(
            self.hidden_dim,
            self.num_heads,
            dropout=self.dropout,
            kernel_initializer=self.kernel_initializer,
            **(self.attention or {}),
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, streams_shape):
        """Creates the weights."""
        super().build(streams_shape)

    def call(self, streams, context, memory=None, training=None):
        """Lets each position of both streams gather from memory and content, then transforms it."""
        keys = ops.shape(context["relative_index"])[2]
        length = keys if memory is None else keys - ops.shape(memory)[1]

        def attend(x):
            value = x[:, :length]
            if memory is not None:
                past = self.attention_norm(memory) if self.norm_first else memory
                value = ops.concatenate([past, value], axis=1)  # (batch, key, hidden_dim)
            x = self.self_attention(x, value=value, training=training, **context)
            return (self.attention_dropout(x, training=training),)

        (streams,) = self._beside_shortcut(streams, attend, self.attention_norm)
        return self._transform(streams, training)

"""What tells a transformer the order of its tokens.

Notable:
- fixed sine waves and a learned table return encodings in the shape of their input; the caller adds
  them, as with KerasHub's layers of the same names;
- rotary positions turn queries and keys, so that their product depends on their distance;
- relative positions are a bias on the scores, learned for each distance, far ones sharing;
- `start_index` places a piece of text that is decoded with a cache of its past.
"""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_llm")
class SinePositionEncoding(keras.layers.Layer):
    """Encodes position `p` by sines and cosines of wavelengths from 2 pi to 10000 * 2 pi.

    "Attention Is All You Need" (Vaswani et al., 2017), section 3.5:
    `PE[p, 2i] = sin(p / 10000^(2i / hidden_dim))`, `PE[p, 2i+1] = cos(...)` of the same angle.
    The angles are taken in float32 under every precision: bfloat16 cannot tell 256 from 257.

    Args:
        max_wavelength: float, the longest wavelength in units of 2 pi positions.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        x: float (..., length, hidden_dim); only its shape counts.
        start_index: int or int scalar tensor, position of the first token.

    Returns:
        Tensor of the shape of `x`, to be added to it.

    Example:
        >>> encoding = SinePositionEncoding()(keras.ops.zeros((1, 2, 4)))
        >>> print(keras.ops.convert_to_numpy(encoding[0]).round(2))
        [[0.   1.   0.   1.  ]
         [0.84 0.54 0.01 1.  ]]
    """

    def __init__(self, max_wavelength=10000, **kwargs):
        super().__init__(**kwargs)
        self.max_wavelength = max_wavelength

    def call(self, x, start_index=0):
        """Returns the encodings of the positions of `x`."""
        shape = ops.shape(x)
        positions = start_index + ops.arange(shape[-2])
        positions = ops.cast(positions, "float32")[:, None]  # (length, 1)
        features = ops.arange(shape[-1])  # (hidden_dim,)
        exponents = ops.cast(features // 2 * 2, "float32") / shape[-1]
        angles = positions / ops.power(float(self.max_wavelength), exponents)
        encoding = ops.where(features % 2 == 0, ops.sin(angles), ops.cos(angles))
        return ops.broadcast_to(ops.cast(encoding, self.compute_dtype), shape)

    def compute_output_shape(self, x_shape):
        """Returns the shape of the input."""
        return x_shape

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "max_wavelength": self.max_wavelength}


@keras.saving.register_keras_serializable(package="keras_llm")
class PositionEmbedding(keras.layers.Layer):
    """Learns one vector for each position.

    "BERT" (Devlin et al., 2018), section 3 and figure 2.

    Args:
        max_sequence_length: int, number of positions; longer input is an error.
        initializer: initializer of the table.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        x: float (..., length, hidden_dim); only its shape counts.
        start_index: int or int scalar tensor, position of the first token.
        positions: int (..., length), the position of each token, where they do not go on from
            `start_index`.

    Returns:
        Tensor of the shape of `x`, to be added to it.

    Raises:
        ValueError: the input is longer than `max_sequence_length`.

    Example:
        >>> embedding = PositionEmbedding(max_sequence_length=16)
        >>> tuple(embedding(keras.ops.zeros((2, 10, 4))).shape)
        (2, 10, 4)
    """

    def __init__(self, max_sequence_length, initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        if max_sequence_length is None or max_sequence_length < 1:
            raise ValueError(
                "max_sequence_length, the number of positions to learn, must be a positive "
                f"integer. Got {max_sequence_length}."
            )
        self.max_sequence_length = max_sequence_length
        self.initializer = keras.initializers.get(initializer)

    def build(self, x_shape):
        """Creates the weights."""
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.max_sequence_length, x_shape[-1]),
            initializer=self.initializer,
        )
        self.built = True

    def call(self, x, start_index=0, positions=None):
        """Returns the vectors of the positions of `x`."""
        start = start_index if isinstance(start_index, int) else 0
        length = x.shape[-2]
        if length is not None and start + length > self.max_sequence_length:
            raise ValueError(
                f"The sequence reaches position {start + length}, but only "
                f"max_sequence_length={self.max_sequence_length} positions are learned. Truncate "
                "the input, or build the model with a larger max_sequence_length."
            )
        shape = ops.shape(x)
        table = ops.convert_to_tensor(self.embeddings)  # (max_sequence_length, hidden_dim)
        if positions is not None:
            return ops.take(table, positions, axis=0)
        encoding = ops.slice(table, (start_index, 0), (shape[-2], shape[-1]))
        return ops.broadcast_to(encoding, shape)

    def compute_output_shape(self, x_shape):
        """Returns the shape of the input."""
        return x_shape

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "max_sequence_length": self.max_sequence_length,
            "initializer": keras.initializers.serialize(self.initializer),
        }


@keras.saving.register_keras_serializable(package="keras_llm")
class RotaryEmbedding(keras.layers.Layer):
    """Turns pairs of features by angles that grow with the position.

    "RoFormer" (Su et al., 2021), section 3.2.2, equation 15: features i and i + depth / 2 are a
    point in a plane, turned at position p by `p / max_wavelength^(2i / depth)`. (The paper pairs
    neighbours; Llama's published weights pair halves, the same but for the order of features.) The
    product of a turned query and a turned key depends on their distance alone.

    Args:
        max_wavelength: float, the longest wavelength in units of 2 pi positions.
        scaling_factor: float, at least 1. Wavelengths longer than the context that the model was
            first trained on are stretched by it ("The Llama 3 Herd of Models", section 3.4.3, in
            the form of the published Llama 3.1).
        original_length: int, that context in positions; used where `scaling_factor` is not 1.
        low_frequency_factor: float. Wavelengths above `original_length / low_frequency_factor` are
            stretched in full.
        high_frequency_factor: float. Wavelengths below `original_length / high_frequency_factor`
            stay as they are; between the two, the stretch grows smoothly.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        x: float (..., length, depth), depth even.
        start_index: int or int scalar tensor, position of the first of `x`.

    Returns:
        Tensor of the shape of `x`.

    Raises:
        ValueError: the depth is odd.

    Example:
        >>> x = keras.ops.ones((1, 2, 2))
        >>> print(keras.ops.convert_to_numpy(RotaryEmbedding()(x)[0]).round(2))
        [[ 1.    1.  ]
         [-0.3   1.38]]
    """

    def __init__(
        self,
        max_wavelength=10000,
        scaling_factor=1.0,
        original_length=8192,
        low_frequency_factor=1.0,
        high_frequency_factor=4.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.max_wavelength = max_wavelength
        self.scaling_factor = scaling_factor
        self.original_length = original_length
        self.low_frequency_factor = low_frequency_factor
        self.high_frequency_factor = high_frequency_factor

    def call(self, x, start_index=0):
        """Turns each position of `x`."""
        length, depth = ops.shape(x)[-2:]
        if depth % 2:
            raise ValueError(f"Rotary positions pair features: the depth {depth} must be even.")
        # In float32 under every precision, as in SinePositionEncoding.
        positions = ops.cast(start_index + ops.arange(length), "float32")[:, None]  # (length, 1)
        angles = positions * self._frequencies(depth)  # (length, depth / 2)
        cos, sin = ops.cast(ops.cos(angles), x.dtype), ops.cast(ops.sin(angles), x.dtype)
        first, second = ops.split(x, 2, axis=-1)  # (..., length, depth / 2)
        return ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def _frequencies(self, depth):
        exponents = ops.arange(0, depth, 2, dtype="float32") / depth
        frequencies = ops.power(float(self.max_wavelength), -exponents)
        if self.scaling_factor == 1:
            return frequencies
        turns = self.original_length * frequencies / (2 * math.pi)  # in the original context
        low, high = self.low_frequency_factor, self.high_frequency_factor
        kept = ops.clip((turns - low) / (high - low), 0.0, 1.0)
        return frequencies * (kept + (1 - kept) / self.scaling_factor)

    def compute_output_shape(self, x_shape):
        """Returns the shape of the input."""
        return x_shape

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "max_wavelength": self.max_wavelength,
            "scaling_factor": self.scaling_factor,
            "original_length": self.original_length,
            "low_frequency_factor": self.low_frequency_factor,
            "high_frequency_factor": self.high_frequency_factor,
        }


@keras.saving.register_keras_serializable(package="keras_llm")
class RelativePositionBias(keras.layers.Layer):
    """Learns for each head how much a distance between query and key counts.

    "Exploring the Limits of Transfer Learning" (Raffel et al., 2020), section 2.1, and the authors'
    code: small distances have a bucket each, larger ones share buckets that grow with the logarithm
    of the distance, all beyond `max_distance` the last.

    Args:
        num_heads: int.
        num_buckets: int, how many values each head learns; even where `bidirectional`.
        max_distance: int, in positions.
        bidirectional: bool. True: half of the buckets are for keys after the query. False: they are
            not told apart, for a decoder that never looks there.
        initializer: initializer of the table.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        x: float (batch, query, features); only its length counts.
        key_length: int or int scalar tensor; by default as many keys as queries.
        start_index: int or int scalar tensor, position of the first query among the keys.

    Returns:
        Tensor (1, heads, query, key), the `position_bias` of `MultiHeadAttention`.

    Example:
        >>> x = keras.ops.zeros((2, 3, 8))
        >>> tuple(RelativePositionBias(num_heads=4)(x, key_length=5).shape)
        (1, 4, 3, 5)
    """

    def __init__(
        self,
        num_heads,
        num_buckets=32,
        max_distance=128,
        bidirectional=True,
        initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.initializer = keras.initializers.get(initializer)

    def build(self, x_shape):
        """Creates the weights."""
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.num_buckets, self.num_heads),
            initializer=self.initializer,
        )
        self.built = True

    def call(self, x, key_length=None, start_index=0):
        """Returns the bias of each pair of positions."""
        query_length = ops.shape(x)[1]
        queries = start_index + ops.arange(query_length)
        keys = ops.arange(query_length if key_length is None else key_length)
        distances = keys[None, :] - queries[:, None]  # (query, key)
        table = ops.convert_to_tensor(self.embeddings)  # (buckets, heads)
        bias = ops.take(table, self._buckets(distances), axis=0)  # (query, key, heads)
        return ops.transpose(bias, (2, 0, 1))[None]

    def _buckets(self, distances):
        buckets, first = self.num_buckets, 0
        if self.bidirectional:
            buckets //= 2
            first = ops.where(distances > 0, buckets, 0)
            distances = ops.abs(distances)
        else:
            distances = ops.maximum(-distances, 0)
        exact = buckets // 2  # these distances have a bucket each
        growth = ops.log(ops.cast(ops.maximum(distances, 1), "float32") / exact)
        growth = growth / math.log(self.max_distance / exact) * (buckets - exact)
        shared = ops.minimum(exact + ops.cast(growth, "int32"), buckets - 1)
        return first + ops.where(distances < exact, ops.cast(distances, "int32"), shared)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
            "bidirectional": self.bidirectional,
            "initializer": keras.initializers.serialize(self.initializer),
        }

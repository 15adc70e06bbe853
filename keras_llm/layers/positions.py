"""What tells a transformer the order of its tokens: fixed sine waves, or a learned table.

Both layers return the encodings in the shape of their input; the caller adds them, as with
KerasHub's layers of the same names. `start_index` places a piece of text that is decoded with a
cache of its past.
"""

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

    def call(self, x, start_index=0):
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

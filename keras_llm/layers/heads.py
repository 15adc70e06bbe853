"""What models learn from: heads that guess tokens, and whether two segments belong together.

All give logits in float32 under every precision, as the loss needs.
"""

import keras
from keras import ops

from keras_llm.layers.feed_forward import gelu


@keras.saving.register_keras_serializable(package="keras_llm")
class LanguageModelHead(keras.layers.Layer):
    """Guesses tokens with the token embedding itself and a bias for each token.

    "Using the Output Embedding to Improve Language Models" (Press and Wolf, 2016).

    Args:
        token_embedding: `keras.layers.ReversibleEmbedding` (or KerasHub's) that embeds the
            model's tokens; shared, not copied.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        x: float (..., hidden_dim), one vector for each token to guess.

    Returns:
        Logits, float32 (..., vocabulary).

    Example:
        >>> embedding = keras.layers.ReversibleEmbedding(input_dim=100, output_dim=8)
        >>> x = embedding(keras.ops.array([[5, 6, 7]]))
        >>> tuple(LanguageModelHead(embedding)(x).shape)
        (1, 3, 100)
    """

    def __init__(self, token_embedding, **kwargs):
        super().__init__(**kwargs)
        self.token_embedding = token_embedding

    def build(self, x_shape):
        """Creates the weights."""
        self.bias = self.add_weight(
            name="bias",
            shape=(self.token_embedding.input_dim,),
            initializer="zeros",
            autocast=False,  # it is added in float32
        )
        self.built = True

    def call(self, x):
        """Returns the logits of every token."""
        logits = self.token_embedding(x, reverse=True)  # (..., vocabulary)
        return ops.cast(logits, "float32") + ops.cast(self.bias, "float32")

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "token_embedding": keras.saving.serialize_keras_object(self.token_embedding),
        }

    @classmethod
    def from_config(cls, config):
        """Builds the layer from `get_config`'s result."""
        embedding = keras.saving.deserialize_keras_object(config["token_embedding"])
        return cls(**{**config, "token_embedding": embedding})


@keras.saving.register_keras_serializable(package="keras_llm")
class MaskedLMHead(LanguageModelHead):
    """Guesses the tokens at the masked positions, and at those only.

    "BERT" (Devlin et al., 2018), section 3.1, task 1.

    Args:
        token_embedding: `keras.layers.ReversibleEmbedding` (or KerasHub's) that embeds the
            model's tokens; shared, not copied.
        layer_norm_epsilon: float, added to the variance in layer normalisation.
        kernel_initializer: initializer of the dense layer's kernel.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        x: float (batch, length, hidden_dim), the encoder's output.
        mask_positions: int (batch, predictions), positions in the sequence; unused slots may
            hold any valid position, such as 0.

    Returns:
        Logits, float32 (batch, predictions, vocabulary).

    Example:
        >>> embedding = keras.layers.ReversibleEmbedding(input_dim=100, output_dim=8)
        >>> x = embedding(keras.ops.array([[5, 6, 7, 8, 9]]))
        >>> head = MaskedLMHead(token_embedding=embedding)
        >>> tuple(head(x, mask_positions=keras.ops.array([[1, 3]])).shape)
        (1, 2, 100)
    """

    def __init__(
        self,
        token_embedding,
        layer_norm_epsilon=1e-5,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(token_embedding, **kwargs)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.dense = keras.layers.Dense(
            token_embedding.output_dim,
            activation=gelu,
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name="dense",
        )
        self.layer_norm = keras.layers.LayerNormalization(
            epsilon=layer_norm_epsilon, dtype=self.dtype_policy, name="layer_norm"
        )

    def build(self, x_shape):
        """Creates the weights."""
        self.dense.build(x_shape)
        self.layer_norm.build((*x_shape[:-1], self.token_embedding.output_dim))
        super().build(x_shape)

    def call(self, x, mask_positions):
        """Returns the logits of every token at `mask_positions`."""
        x = ops.take_along_axis(x, mask_positions[:, :, None], axis=1)
        return super().call(self.layer_norm(self.dense(x)))  # (batch, predictions, vocabulary)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_llm")
class NextSentenceHead(keras.layers.Layer):
    """Guesses whether the second segment follows the first in the text.

    "BERT" (Devlin et al., 2018), section 3.1, task 2.

    Args:
        kernel_initializer: initializer of the dense layer's kernel.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        x: float (batch, hidden_dim), the encoder's pooled output.

    Returns:
        Logits, float32 (batch, 2). Index 1: the second segment follows the first; index 0: it
        does not.

    Example:
        >>> tuple(NextSentenceHead()(keras.ops.ones((3, 8))).shape)
        (3, 2)
    """

    def __init__(self, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.dense = keras.layers.Dense(
            2, kernel_initializer=self.kernel_initializer, dtype=self.dtype_policy, name="dense"
        )

    def build(self, x_shape):
        """Creates the weights."""
        self.dense.build(x_shape)
        self.built = True

    def call(self, x):
        """Returns the logits of 'does not follow' and 'follows'."""
        return ops.cast(self.dense(x), "float32")

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_llm")
class ReplacedTokenHead(keras.layers.Layer):
    """Guesses of each token whether another one stood there.

    "ELECTRA" (Clark et al., 2020), section 2.

    Args:
        kernel_initializer: initializer of the kernels.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        x: float (batch, length, hidden_dim), the encoder's output.

    Returns:
        Logits, float32 (batch, length); positive: the token was put there.

    Example:
        >>> tuple(ReplacedTokenHead()(keras.ops.ones((3, 5, 8))).shape)
        (3, 5)
    """

    def __init__(self, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, x_shape):
        """Creates the weights."""
        self.dense = self._dense(x_shape[-1], "dense", activation=gelu)
        self.output_dense = self._dense(1, "output_dense")
        self.dense.build(x_shape)
        self.output_dense.build(x_shape)
        self.built = True

    def _dense(self, units, name, activation=None):
        return keras.layers.Dense(
            units,
            activation=activation,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )

    def call(self, x):
        """Returns the logit of "replaced" for each token."""
        logits = self.output_dense(self.dense(x))  # (batch, length, 1)
        return ops.cast(logits[:, :, 0], "float32")

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

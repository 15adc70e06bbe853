"""The position-wise feed-forward network of a transformer, and the exact GELU.

Keras' own exact GELU is written with the complementary error function, which ONNX does not have;
ours, with the error function, exports everywhere and is the one that BERT was trained with.
"""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_llm")
def gelu(x):
    """Weighs `x` by the chance that a standard normal variable is below it: `x * P(X <= x)`.

    "Gaussian Error Linear Units" (Hendrycks and Gimpel, 2016), section 2; exact, not the
    approximation by tanh. Computed in float32 under half precision, where `1 + erf` of a negative
    number has no digits left.

    Args:
        x: float tensor of any shape.

    Returns:
        Tensor of the shape and type of `x`.

    Example:
        >>> print(keras.ops.convert_to_numpy(gelu(keras.ops.array([-1.0, 0.0, 1.0]))).round(4))
        [-0.1587  0.      0.8413]
    """
    wide = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
    return ops.cast(0.5 * wide * (1.0 + ops.erf(wide / math.sqrt(2.0))), x.dtype)


@keras.saving.register_keras_serializable(package="keras_llm")
def gelu_approximate(x):
    """Approximates `gelu` by a hyperbolic tangent, as GPT-2 and T5 1.1 were trained with.

    "Gaussian Error Linear Units" (Hendrycks and Gimpel, 2016), section 2. It differs from the exact
    one by 0.0005 at most: more than published weights forgive.

    Args:
        x: float tensor of any shape.

    Returns:
        Tensor of the shape and type of `x`.

    Example:
        >>> x = keras.ops.array([-1.0, 0.0, 1.0])
        >>> print(keras.ops.convert_to_numpy(gelu_approximate(x)).round(4))
        [-0.1588  0.      0.8412]
    """
    return keras.activations.gelu(x, approximate=True)


OWN_ACTIVATIONS = {"gelu": gelu, "gelu_approximate": gelu_approximate}


@keras.saving.register_keras_serializable(package="keras_llm")
class FeedForward(keras.layers.Layer):
    """Two dense layers with an activation between, applied to each position alone.

    "Attention Is All You Need" (Vaswani et al., 2017), section 3.3; dropout of the output as in
    section 5.4. Gated, the activation of one dense layer weighs the output of another ("GLU
    Variants Improve Transformer", Shazeer, 2020): SwiGLU is `gated=True, activation="silu"`.

    Args:
        intermediate_dim: int, features between the two layers.
        hidden_dim: int, features of the output; by default those of the input.
        activation: name or function; "gelu" is the exact `keras_llm.layers.gelu`,
            "gelu_approximate" the one by a hyperbolic tangent.
        dropout: float in [0, 1), the share of output features set to zero in training.
        intermediate_dropout: float in [0, 1), the same for the features between the two layers, as
            in T5.
        kernel_initializer: initializer of the kernels.
        use_bias: bool, whether the dense layers have a bias.
        gated: bool, whether a third dense layer, without activation, is multiplied in between.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        x: float (..., features).
        training: bool, whether dropout is on.

    Returns:
        Tensor (..., hidden_dim).

    Example:
        >>> tuple(FeedForward(intermediate_dim=32)(keras.ops.ones((2, 5, 8))).shape)
        (2, 5, 8)
    """

    def __init__(
        self,
        intermediate_dim,
        hidden_dim=None,
        activation="gelu",
        dropout=0.0,
        kernel_initializer="glorot_uniform",
        use_bias=True,
        gated=False,
        intermediate_dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.intermediate_dim = intermediate_dim
        self.hidden_dim = hidden_dim
        if isinstance(activation, str):
            activation = OWN_ACTIVATIONS.get(activation, activation)
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.use_bias = use_bias
        self.gated = gated
        self.intermediate_dropout = intermediate_dropout

    def _dense(self, name, units, activation=None):
        return keras.layers.Dense(
            units,
            activation=activation,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, x_shape):
        """Creates the weights."""
        self.intermediate_dense = self._dense(
            "intermediate_dense", self.intermediate_dim, self.activation
        )
        if self.gated:
            self.gated_dense = self._dense("gated_dense", self.intermediate_dim)
            self.gated_dense.build(x_shape)
        self.output_dense = self._dense("output_dense", self.hidden_dim or x_shape[-1])
        self.hidden_dropout = keras.layers.Dropout(
            self.intermediate_dropout, dtype=self.dtype_policy, name="hidden_dropout"
        )
        self.output_dropout = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy, name="output_dropout"
        )
        self.intermediate_dense.build(x_shape)
        self.output_dense.build((*x_shape[:-1], self.intermediate_dim))
        self.built = True

    def call(self, x, training=None):
        """Transforms each position of `x`."""
        hidden = self.intermediate_dense(x)  # (..., intermediate_dim)
        if self.gated:
            hidden = hidden * self.gated_dense(x)
        hidden = self.hidden_dropout(hidden, training=training)
        x = self.output_dense(hidden)  # (..., hidden_dim)
        return self.output_dropout(x, training=training)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "hidden_dim": self.hidden_dim,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "use_bias": self.use_bias,
            "gated": self.gated,
            "intermediate_dropout": self.intermediate_dropout,
        }

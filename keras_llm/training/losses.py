"""The losses of the models here: means over the real targets of all replicas together."""

import keras
from keras import ops

from keras_llm.training.distribution import global_sum


class _GlobalMean(keras.losses.Loss):
    """A mean over the real targets of the global batch; a subclass has `call`, their losses."""

    def __init__(self, name):
        super().__init__(name=name, reduction="sum")

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Returns this replica's share of the global mean; all the shares add up to it."""
        losses = self.call(ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred))
        if sample_weight is None:
            weights = ops.ones_like(losses)
        else:
            weights = ops.cast(sample_weight, losses.dtype)
            axes = tuple(range(len(weights.shape), len(losses.shape)))  # of an example, its targets
            weights = ops.broadcast_to(ops.expand_dims(weights, axes), ops.shape(losses))
        return ops.divide_no_nan(ops.sum(losses * weights), global_sum(ops.sum(weights)))


@keras.saving.register_keras_serializable(package="keras_llm")
class GlobalMeanCrossentropy(_GlobalMean):
    r"""Cross-entropy from logits, averaged over the real targets of the global batch.

    $$ L = \frac{\sum_i w_i \, (-\log \mathrm{softmax}(z_i)_{y_i})}{\sum_i w_i} $$

    where both sums run over all replicas. Padding (weight 0), the split of a batch among replicas
    and the number of replicas therefore change nothing. Keras' own `mean_with_sample_weight`
    divides by each replica's count and then averages the replicas, which weighs a target more where
    its neighbours are fewer.

    Args:
        label_smoothing: Float in [0, 1). The share of probability that is spread evenly over all
            classes (Szegedy et al. 2016, section 7).
        name: String.

    Example:
        >>> loss = GlobalMeanCrossentropy()
        >>> logits = [[2.0, 0.0], [0.0, 0.0], [9.0, 0.0]]
        >>> round(float(loss([0, 1, 1], logits, sample_weight=[1.0, 1.0, 0.0])), 4)
        0.41
    """

    def __init__(self, label_smoothing=0.0, name="crossentropy"):
        super().__init__(name)
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(
                f"label_smoothing must be at least 0 and less than 1, not {label_smoothing}."
            )
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        """Returns every loss: y_true (...), y_pred (..., classes) logits -> (...) float32."""
        logits = ops.cast(y_pred, "float32")
        losses = ops.sparse_categorical_crossentropy(y_true, logits, from_logits=True)
        if not self.label_smoothing:
            return losses
        uniform = -ops.mean(ops.log_softmax(logits, axis=-1), axis=-1)
        return (1.0 - self.label_smoothing) * losses + self.label_smoothing * uniform

    def get_config(self):
        """Returns the constructor's arguments."""
        return {"label_smoothing": self.label_smoothing, "name": self.name}


@keras.saving.register_keras_serializable(package="keras_llm")
class GlobalMeanBinaryCrossentropy(_GlobalMean):
    r"""Binary cross-entropy from logits, averaged over the real targets of the global batch.

    $$ L = \frac{\sum_i w_i \, (-y_i \log \sigma(z_i) - (1 - y_i) \log \sigma(-z_i))}{\sum_i w_i} $$

    where both sums run over all yes-or-no targets on all replicas, as in `GlobalMeanCrossentropy`.
    A weight of shape (batch,) weighs all targets of an example, one of their own shape each target.

    Args:
        name: String.

    Example:
        >>> loss = GlobalMeanBinaryCrossentropy()
        >>> round(float(loss([[1, 0], [0, 1]], [[2.0, 0.0], [9.0, 9.0]], sample_weight=[1, 0])), 4)
        0.41
    """

    def __init__(self, name="binary_crossentropy"):
        super().__init__(name)

    def call(self, y_true, y_pred):
        """Returns every loss: y_true (...) of 0 and 1, y_pred (...) logits -> (...) float32."""
        logits, targets = ops.cast(y_pred, "float32"), ops.cast(y_true, "float32")
        return ops.binary_crossentropy(targets, logits, from_logits=True)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {"name": self.name}

"""Calibration: of the answers given with 80 % probability, 80 % should be right.

"On Calibration of Modern Neural Networks" (Guo et al., 2017). Networks are surer than they are
right. To divide all logits by one number, found on validation data, mends most of it and changes
no answer, only the probability beside it.
"""

import math

import keras
import numpy as np

# A validation set without a single error would have the temperature 0, and every answer be certain.
LOWEST, HIGHEST = 0.05, 20.0


@keras.saving.register_keras_serializable(package="keras_llm")
class TemperatureScaling(keras.layers.Layer):
    """Divides logits by a temperature, which is a weight but not trained: 1 until it is set.

    "On Calibration of Modern Neural Networks" (Guo et al., 2017), section 4.2.

    Args:
        **kwargs: `name`, `dtype` of `keras.layers.Layer`.

    Call arguments:
        logits: float (batch, classes).

    Returns:
        Float (batch, classes).

    Example:
        >>> scaling = TemperatureScaling()
        >>> scaling.build((None, 2))
        >>> _ = scaling.temperature.assign(2.0)
        >>> scaling(np.array([[4.0, 1.0]])).numpy().tolist()
        [[2.0, 0.5]]
    """

    def build(self, input_shape):
        """Creates the temperature."""
        self.temperature = self.add_weight(
            shape=(), initializer="ones", trainable=False, name="temperature"
        )

    def call(self, logits):
        """Returns the logits, flatter where the temperature is more than 1."""
        return logits / self.temperature


def best_temperature(logits, truth, activation):
    r"""Finds the temperature at which the probabilities of what is true are highest.

    The negative log-likelihood is convex in $b = 1 / T$, and its derivative is the mean of
    $\sum_k (p_k(b) - y_k) z_k$, for the softmax as for the sigmoid. Halving an interval finds where
    it is 0.

    Args:
        logits: float array (examples, classes), $z$.
        truth: float array (examples, classes), $y$: 1 at what is true, else 0.
        activation: function from logits to probabilities $p$: softmax or sigmoid.

    Returns:
        Float from 0.05 to 20.

    Example:
        >>> logits = np.log([[0.99, 0.01]] * 10)  # 9 in 10 are right, not 99 in 100
        >>> truth = np.eye(2)[[0] * 9 + [1]]
        >>> temperature = best_temperature(logits, truth, keras.ops.softmax)
        >>> print(keras.ops.softmax(logits[0] / temperature).numpy().round(3))
        [0.9 0.1]
    """
    low, high = math.log(LOWEST), math.log(HIGHEST)
    while high - low > 1e-6:
        middle = (low + high) / 2
        probabilities = np.asarray(activation(logits / math.exp(middle)))
        if np.sum((probabilities - truth) * logits) > 0:  # too sure: hotter
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def expected_calibration_error(confidence, correct, num_bins=15):
    r"""Measures how far probabilities are from shares of right answers.

    "On Calibration of Modern Neural Networks" (Guo et al., 2017), equation 3. Answers are put in
    bins by their confidence; the error is the mean, over all answers, of the distance between
    accuracy and mean confidence of the bin:
    $\sum_m \frac{|B_m|}{n} \, |\mathrm{acc}(B_m) - \mathrm{conf}(B_m)|$.

    Args:
        confidence: float array (answers,), the probability that was given to each.
        correct: bool array (answers,), whether it was right.
        num_bins: int, bins of equal width; the paper's is 15.

    Returns:
        Float from 0 to 1.

    Example:
        >>> round(expected_calibration_error([0.9] * 4, [True, True, True, False]), 3)
        0.15
    """
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidence))

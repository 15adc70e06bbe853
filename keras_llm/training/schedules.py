"""Learning-rate schedules that Keras does not have."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_llm")
class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly from 0 to the peak, then falls linearly to 0 (Devlin et al. 2018, A.2).

    Args:
        peak: Float, the highest learning rate, reached after `warmup_steps`.
        total_steps: Int, the step at which the rate is 0 again.
        warmup_steps: Int, the steps of the rise. Defaults to a tenth of `total_steps`.

    Raises:
        ValueError: unless 0 <= warmup_steps < total_steps.

    Example:
        >>> schedule = WarmupLinearDecay(1.0, total_steps=100, warmup_steps=10)
        >>> [round(float(schedule(step)), 2) for step in (0, 5, 10, 55, 100)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    def __init__(self, peak, total_steps, warmup_steps=None):
        warmup_steps = total_steps // 10 if warmup_steps is None else warmup_steps
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"warmup_steps must be at least 0 and less than total_steps; got "
                f"warmup_steps={warmup_steps}, total_steps={total_steps}."
            )
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        """Returns the learning rate at `step` as a float32 scalar."""
        step = ops.cast(step, "float32")
        rise = step / max(self.warmup_steps, 1)
        fall = (self.total_steps - step) / (self.total_steps - self.warmup_steps)
        return self.peak * ops.clip(ops.where(step < self.warmup_steps, rise, fall), 0.0, 1.0)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
        }


@keras.saving.register_keras_serializable(package="keras_llm")
class WarmupInverseSquareRootDecay(keras.optimizers.schedules.LearningRateSchedule):
    r"""Rises linearly, then falls with the root of the step (Vaswani et al. 2017, equation 3).

    $$ \mathrm{rate} = d^{-1/2} \min(s^{-1/2},\; s \cdot w^{-3/2}) $$

    for the step $s$, counted from 1, of a model of $d$ features with $w$ steps of warm-up. The
    highest rate, at step $w$, is $(d w)^{-1/2}$. No total number of steps has to be known.

    Args:
        hidden_dim: Int, the model's features $d$.
        warmup_steps: Int, the steps of the rise.
        scale: Float, multiplies the rate.

    Raises:
        ValueError: `hidden_dim` or `warmup_steps` is less than 1.

    Example:
        >>> schedule = WarmupInverseSquareRootDecay(hidden_dim=512, warmup_steps=4000)
        >>> [round(float(schedule(step - 1)) * 1e4, 2) for step in (1000, 4000, 16000)]
        [1.75, 6.99, 3.49]
    """

    def __init__(self, hidden_dim, warmup_steps=4000, scale=1.0):
        if hidden_dim < 1 or warmup_steps < 1:
            raise ValueError(
                f"hidden_dim={hidden_dim} and warmup_steps={warmup_steps} must be at least 1."
            )
        self.hidden_dim = hidden_dim
        self.warmup_steps = warmup_steps
        self.scale = scale

    def __call__(self, step):
        """Returns the learning rate at `step`, which Keras counts from 0, as a float32 scalar."""
        step = ops.cast(step, "float32") + 1.0
        rate = ops.minimum(step**-0.5, step * self.warmup_steps**-1.5)
        return self.scale * self.hidden_dim**-0.5 * rate

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "hidden_dim": self.hidden_dim,
            "warmup_steps": self.warmup_steps,
            "scale": self.scale,
        }

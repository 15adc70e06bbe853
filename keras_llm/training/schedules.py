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

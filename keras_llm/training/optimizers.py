"""AdamW as BERT uses it, with gradients added up before anything looks at their size.

Two of Keras' defaults differ from the mathematics on TensorFlow. Gradients of embeddings arrive
slice by slice and are squared slice by slice (`densify` mends it), and each replica clips its own
gradient before the replicas are added up. Both are mended in one place: the hook through which
every optimizer passes its gradients first.
"""

import keras
from keras import ops

from keras_llm.training.distribution import densify, global_sum


class GlobalGradients:
    """Mixin for a Keras optimizer: adds up repeated rows, then replicas, then clips.

    Put it before the optimizer in the bases. One and many replicas then take the same step,
    clipping included.

    Example:
        >>> class SGD(GlobalGradients, keras.optimizers.SGD):
        ...     pass
        >>> SGD(0.1, global_clipnorm=1.0).global_clipnorm
        1.0
    """

    def _clip_gradients(self, grads):
        grads = [densify(grad) for grad in grads]
        return super()._clip_gradients(list(global_sum(grads)))

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars  # already the sum over replicas


@keras.saving.register_keras_serializable(package="keras_llm")
class AdamW(GlobalGradients, keras.optimizers.AdamW):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), set up as BERT's.

    Biases and the gains and biases of norms are not decayed. The gradient's global norm is clipped
    at 1 (Devlin et al. 2018, released code). Repeated embedding rows and replicas are added up
    before moments and norms are taken.

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`.
        weight_decay: Float, a step's decay divided by the learning rate.
        global_clipnorm: Float or None, the largest global norm of the gradient.
        epsilon: Float, added to the root of the second moment.
        rate_multipliers: Sequence of float, for each trainable variable of the model the factor of
            its learning rate, as `layerwise_decay` gives it; or None: the same rate for all.
        **kwargs: See `keras.optimizers.AdamW`.

    Example:
        >>> from keras_llm import training
        >>> schedule = training.WarmupLinearDecay(1e-4, total_steps=1000, warmup_steps=100)
        >>> optimizer = AdamW(schedule)
    """

    not_decayed = frozenset({"bias", "beta", "gamma", "scale"})

    def __init__(
        self,
        learning_rate=1e-4,
        weight_decay=0.01,
        global_clipnorm=1.0,
        epsilon=1e-6,
        rate_multipliers=None,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            weight_decay=weight_decay,
            global_clipnorm=global_clipnorm,
            epsilon=epsilon,
            **kwargs,
        )
        # A tuple: Keras would wrap a list to track what is in it.
        self.rate_multipliers = None if rate_multipliers is None else tuple(rate_multipliers)

    def build(self, variables):
        """Creates the moments of `variables`, and leaves biases and norms out of the decay."""
        if self.rate_multipliers is not None and len(self.rate_multipliers) != len(variables):
            raise ValueError(
                f"rate_multipliers has {len(self.rate_multipliers)} factors for {len(variables)} "
                "trainable variables. Take them from the model as it is trained: after freezing."
            )
        self.exclude_from_weight_decay([v for v in variables if v.name in self.not_decayed])
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        """Decays one variable and takes Adam's step, both at the variable's own rate."""
        if self.rate_multipliers is not None:
            multiplier = self.rate_multipliers[self._get_variable_index(variable)]
            learning_rate = ops.multiply(learning_rate, multiplier)
        if self.weight_decay and self._use_weight_decay(variable):
            rate = ops.cast(learning_rate, variable.dtype)
            self.assign_sub(variable, ops.multiply(ops.multiply(variable, self.weight_decay), rate))
        super().update_step(gradient, variable, learning_rate)

    def _apply_weight_decay(self, variables):
        """Does nothing: `update_step` decays, for it knows the variable's rate."""

    def get_config(self):
        """Returns the constructor's arguments."""
        multipliers = None if self.rate_multipliers is None else list(self.rate_multipliers)
        return {**super().get_config(), "rate_multipliers": multipliers}

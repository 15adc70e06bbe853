"""What a Keras model needs so that `fit` works on several devices and hosts, and after loading.

Keras 3.15 builds metrics from the mean of the replicas' shares of a batch, which fails for boolean
masks and under `MultiWorkerMirroredStrategy`; there it averages scalar logs along an axis that they
do not have; and it loads a model with a `compile` of its own without optimizer. Overriding these
methods in the model leaves Keras itself as it is.
"""

import keras
from keras import ops, tree

from keras_llm.training.distribution import is_multi_worker


class TrainingMixin:
    """Mixin for a `keras.Model`: `fit` on one device, several, or several hosts, and after loading.

    Put it before the model in the bases.

    Example:
        >>> class Model(TrainingMixin, keras.Sequential):
        ...     pass
        >>> model = Model([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> history = model.fit(keras.ops.ones((8, 2)), keras.ops.ones((8, 1)), verbose=0)
    """

    def get_compile_config(self):
        """Returns how the model is compiled, and what is not trained: weights, or all of it.

        Keras' own models know neither entry, and a clone may be one: they are there where needed.
        """
        config = super().get_compile_config()
        if not config:
            return config
        if frozen := [i for i, weight in enumerate(self.weights) if not weight.trainable]:
            config["frozen"] = frozen
        if not self.optimizer.built:
            config["trained"] = False
        return config

    def compile_from_config(self, config):
        """Compiles a loaded model as it was; Keras calls it and restores the optimizer's state."""
        config = dict(config)
        trained = config.pop("trained", True)
        for i in config.pop("frozen", ()):
            self.weights[i].trainable = False
        self.compile(**keras.saving.deserialize_keras_object(config))
        if trained:  # else the file has no state for the optimizer
            self.optimizer.build(self.trainable_variables)

    # Methods below exist only where Keras' TensorFlow trainer calls them: `train_step` has other
    # arguments under JAX.
    if keras.backend.backend() == "tensorflow":

        def _maybe_symbolic_build(self, iterator=None, data_batch=None):
            strategy = self._distribute_strategy
            if strategy is None:
                return
            for _, _, batches in iterator or ():
                data_batch = next(batches)
                break
            with strategy.scope():  # from the first replica's share: masks cannot be averaged
                self._symbolic_build(
                    data_batch=tree.map_structure(
                        lambda value: strategy.experimental_local_results(value)[0], data_batch
                    )
                )

        def train_step(self, data):
            """Takes one optimizer step on a replica's share of a batch and returns its logs."""
            return self._reducible(super().train_step(data))

        def test_step(self, data):
            """Evaluates a replica's share of a batch and returns its logs."""
            return self._reducible(super().test_step(data))

        def _reducible(self, logs):
            """Gives logs the axis that Keras averages them along on several hosts: () -> (1,)."""
            if not is_multi_worker(self._distribute_strategy):
                return logs
            return tree.map_structure(lambda log: ops.reshape(log, (1,)), logs)

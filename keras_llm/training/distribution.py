"""Where a model trains, and sums that mean the same on one replica and on many.

Keras averages, clips and normalises on each replica and only then adds the replicas up. For a loss
over masked tokens that is wrong: replicas hold different numbers of targets. The functions here add
up first. TensorFlow is imported only when it is the backend: under JAX arrays are global and there
is nothing to add.
"""

import functools
import json
import os

import keras


def strategy():
    """Chooses where to train: hosts in `TF_CONFIG`, else TPU, else GPUs, else CPU.

    Build and compile the model in its scope; `fit`, `evaluate` and `predict` are then called as
    ever. Several logical CPU devices (`tf.config.set_logical_device_configuration`) count as
    replicas too, which is how the tests run two of them.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: `TF_CONFIG` is set but is not the JSON of a cluster.

    Example:
        >>> from keras_llm import training
        >>> with training.strategy().scope():
        ...     model = keras.Sequential([keras.layers.Dense(2)])
    """
    import tensorflow as tf

    if len(_workers()) > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if "TPU_NAME" in os.environ or tf.config.list_physical_devices("TPU"):
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(
            os.environ.get("TPU_NAME", "local")
        )
        return tf.distribute.TPUStrategy(resolver)
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return _mirrored(tuple(device.name for device in devices))
    return tf.distribute.get_strategy()  # one device: TensorFlow's default places everything on it


@functools.cache  # two such strategies in one process take each other's collective messages
def _mirrored(devices):
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(devices)


def _workers():
    """Returns the addresses of the hosts that train together, as TF_CONFIG lists them."""
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {})
        return [host for role in ("chief", "worker") for host in cluster.get(role, [])]
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(
            f"TF_CONFIG is not the JSON of a cluster: {os.environ['TF_CONFIG']!r} ({error}). "
            'Expected {"cluster": {"worker": ["host:port", ...]}, '
            '"task": {"type": "worker", "index": 0}}.'
        ) from None


def is_multi_worker(strategy):
    """Tells whether a strategy spans several hosts.

    Args:
        strategy: A `tf.distribute.Strategy`, or None.

    Returns:
        A bool.

    Example:
        >>> is_multi_worker(None)
        False
    """
    return getattr(getattr(strategy, "extended", None), "_in_multi_worker_mode", lambda: False)()


def is_first_worker(model):
    """Tells whether this process writes the files: the only host, or the first of several.

    Args:
        model: A `keras.Model`.

    Returns:
        A bool.

    Example:
        >>> is_first_worker(keras.Sequential())
        True
    """
    strategy = getattr(model, "_distribute_strategy", None)
    return not is_multi_worker(strategy) or strategy.extended._task_id == 0


def global_sum(tensors):
    """Adds tensors up over all replicas, so that every replica holds the same total.

    Args:
        tensors: One tensor or a list of tensors, of any shape, the same on each replica.

    Returns:
        The totals, in the same structure; the tensors themselves where there is one replica.

    Example:
        >>> float(global_sum(keras.ops.convert_to_tensor(3.0)))
        3.0
    """
    if keras.backend.backend() != "tensorflow":
        return tensors
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()  # None while fit builds the model symbolically
    if replica is None or replica.num_replicas_in_sync == 1:
        return tensors
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def densify(gradient):
    """Adds up the repeated rows of an embedding's gradient.

    TensorFlow hands the gradient of a lookup over as `IndexedSlices`, one slice a lookup, so a
    token that occurs three times has three slices. Optimizers that square gradients, and norms,
    need the sum of the three first.

    Args:
        gradient: A tensor, a `tf.IndexedSlices`, or None.

    Returns:
        A dense tensor of the variable's shape, or None.

    Example:
        >>> import tensorflow as tf
        >>> slices = tf.IndexedSlices([[1.0], [2.0]], indices=[1, 1], dense_shape=[3, 1])
        >>> densify(slices).numpy().ravel().tolist()
        [0.0, 3.0, 0.0]
    """
    if gradient is None or keras.backend.backend() != "tensorflow":
        return gradient
    import tensorflow as tf

    return tf.convert_to_tensor(gradient)

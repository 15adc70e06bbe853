"""Chance that can be repeated: numbers and orders as functions of a seed and what they are for.

Notable: `tf.random` with a global seed and `Dataset.shuffle` depend on what was drawn before, so
they cannot go on in the middle of a run. Here every number is a hash, and every window of the data
has its own order.
"""

import tensorflow as tf


def uniform(keys: list, stream: int, count: int) -> tf.Tensor:
    """Hashes keys to random numbers in [0, 1) with SplitMix64 (Steele et al. 2014).

    Args:
        keys: list of ints, some of them of shape `(batch,)`.
        stream: int, another one for other numbers.
        count: int.

    Returns:
        float32 `(batch, count)`.
    """
    state = tf.constant(stream, tf.uint64)
    for key in keys:
        state = _mix(state + tf.cast(key, tf.uint64))
    steps = tf.range(1, count + 1, dtype=tf.int64)
    state = state[:, None] + tf.cast(steps, tf.uint64) * 0x9E3779B97F4A7C15
    return tf.cast(tf.bitwise.right_shift(_mix(state), 40), tf.float32) * 2**-24


def fold(seed: int, *numbers: tf.Tensor) -> tf.Tensor:
    """Folds numbers into a seed: int64 `(2,)`, for TensorFlow's stateless random functions."""
    key = tf.constant([seed, 0], tf.int64)
    for number in numbers:
        key = tf.random.fold_in(key, number)
    return key


def shuffle(dataset: tf.data.Dataset, window: int, seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
    """Shuffles within windows, by (seed, epoch, number of the window) and nothing else.

    Args:
        dataset: of any structure of tensors.
        window: int, elements that are shuffled among themselves; they are held in memory.
        seed: int.
        epoch: int `()`.

    Returns:
        A dataset of the same elements.
    """

    def shuffle_window(number, elements):
        size = tf.shape(tf.nest.flatten(elements)[0])[0]
        order = tf.random.experimental.stateless_shuffle(tf.range(size), fold(seed, epoch, number))
        return tf.nest.map_structure(lambda values: tf.gather(values, order), elements)

    return dataset.batch(window).enumerate().map(shuffle_window).unbatch()


def _mix(state: tf.Tensor) -> tf.Tensor:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        state = tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, shift)) * factor
    return state

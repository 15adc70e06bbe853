"""Windows of long texts are read some at a time."""

import itertools

import pytest
import tensorflow as tf

from keras_llm.tasks.preprocessing import WINDOWS_AT_ONCE, batch_by_batch


@pytest.mark.parametrize("count", [0, 1, WINDOWS_AT_ONCE, 3 * WINDOWS_AT_ONCE + 1])
def test_all_windows_are_read_in_order_and_never_more_than_some(count):
    read = []

    def twice(some):  # of each window a number, and as many flags as it has
        read.append(some.numpy().tolist())
        return some, tf.repeat(some, some)

    spec = tf.TensorSpec([None], tf.int32)
    numbers, repeated = batch_by_batch(twice, tf.constant(count), (spec, spec))
    assert numbers.numpy().tolist() == list(range(count))
    assert repeated.numpy().tolist() == [i for i in range(count) for _ in range(i)]
    assert [*itertools.chain(*read)] == list(range(count))
    assert max(map(len, read)) <= WINDOWS_AT_ONCE

import json

import pytest
import tensorflow as tf

from keras_llm import training


def test_several_devices_are_mirrored():
    strategy = training.strategy()  # the tests' two logical CPUs
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert strategy.num_replicas_in_sync == 2
    assert training.strategy() is strategy


def test_tf_config_of_a_single_host_needs_no_other_host(monkeypatch):
    cluster = {"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    assert not training.is_multi_worker(training.strategy())


@pytest.mark.parametrize("value", ["{", "[]", '{"cluster": []}'])
def test_broken_tf_config_is_named(monkeypatch, value):
    monkeypatch.setenv("TF_CONFIG", value)
    with pytest.raises(ValueError, match="TF_CONFIG"):
        training.strategy()


def test_global_sum_adds_up_replicas():
    strategy = training.strategy()

    @tf.function
    def total():
        def replica():
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            return training.global_sum(tf.cast(index, tf.float32) + 1.0)

        return strategy.experimental_local_results(strategy.run(replica))

    assert [float(t) for t in total()] == [3.0, 3.0]

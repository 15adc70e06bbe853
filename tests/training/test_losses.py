import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from keras_llm import training
from keras_llm.training import GlobalMeanBinaryCrossentropy, GlobalMeanCrossentropy


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_equals_torch(label_smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 5, 7)).astype("float32"), rng.integers(0, 7, (4, 5))
    real = rng.random((4, 5)) < 0.6
    ours = GlobalMeanCrossentropy(label_smoothing)(labels, logits, sample_weight=real)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits[real]), torch.tensor(labels[real]), label_smoothing=label_smoothing
    )
    assert float(ours) == pytest.approx(float(theirs), abs=1e-6)


def test_padding_changes_nothing():
    logits, labels = np.array([[1.0, 2.0], [0.5, 0.0]], "float32"), np.array([0, 1])
    padded = GlobalMeanCrossentropy()(
        [0, 1, 0], np.vstack([logits, [[99.0, -99.0]]]), sample_weight=[1.0, 1.0, 0.0]
    )
    assert float(padded) == pytest.approx(float(GlobalMeanCrossentropy()(labels, logits)))


def test_no_real_target_is_zero_not_nan():
    assert float(GlobalMeanCrossentropy()([0], [[1.0, 2.0]], sample_weight=[0.0])) == 0.0


def test_half_precision_logits_are_summed_in_float32():
    logits = np.zeros((70_000, 2), "float16")  # the sum exceeds float16's range of 65,504
    loss = GlobalMeanCrossentropy()(np.zeros(70_000, "int32"), logits)
    assert float(loss) == pytest.approx(np.log(2), abs=1e-4)


def test_round_trip_and_bad_smoothing():
    loss = keras.losses.deserialize(keras.losses.serialize(GlobalMeanCrossentropy(0.1)))
    assert loss.label_smoothing == 0.1
    with pytest.raises(ValueError, match="label_smoothing"):
        GlobalMeanCrossentropy(1.0)


@pytest.mark.parametrize("weights", [None, "of examples", "of targets"])
def test_binary_equals_torch(weights):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 5)).astype("float32")
    targets = (rng.random((6, 5)) < 0.4).astype("float32")
    shape = {None: (), "of examples": (6, 1), "of targets": (6, 5)}[weights]
    weight = rng.random(shape).astype("float32") * np.ones((6, 5), "float32")
    given = {None: None, "of examples": weight[:, 0], "of targets": weight}[weights]
    ours = GlobalMeanBinaryCrossentropy()(targets, logits, sample_weight=given)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits), torch.tensor(targets), torch.tensor(weight), reduction="sum"
    )
    assert float(ours) == pytest.approx(float(theirs) / weight.sum(), abs=1e-6)


def test_binary_shares_of_two_replicas_add_up_to_the_mean():
    strategy = training.strategy()
    rng = np.random.default_rng(0)
    targets, logits, weights = rng.random((3, 6, 5)).astype("float32")
    weights[:3] *= 0.1  # the replicas' sums of weights differ

    @tf.function
    def shares():
        def replica():
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            rows = 3 * index + tf.range(3)
            loss = GlobalMeanBinaryCrossentropy()
            taken = [tf.gather(tf.constant(a), rows) for a in (targets, logits, weights)]
            return loss(taken[0], taken[1], sample_weight=taken[2])

        return strategy.experimental_local_results(strategy.run(replica))

    whole = GlobalMeanBinaryCrossentropy()(targets, logits, sample_weight=weights)
    assert sum(map(float, shares())) == pytest.approx(float(whole), abs=1e-6)


def test_binary_round_trip():
    loss = keras.losses.deserialize(keras.losses.serialize(GlobalMeanBinaryCrossentropy()))
    assert float(loss([[1.0]], [[0.0]])) == pytest.approx(np.log(2))

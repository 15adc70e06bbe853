import keras
import numpy as np
import pytest
import torch

from keras_llm.training import GlobalMeanCrossentropy


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

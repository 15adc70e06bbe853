import keras
import numpy as np
import pytest

from keras_llm import training


def network(units):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units, name="dense")])
    model.compile("adam", "mse")
    return model


def test_missing_file_is_epoch_zero(tmp_path):
    assert training.restore_checkpoint(network(2), tmp_path / "none.safetensors") == 0


def test_checkpoint_of_another_model_is_refused_and_nothing_changes(tmp_path):
    training.save_checkpoint(network(2), tmp_path / "checkpoint.safetensors", epoch=1)
    other = network(5)
    before = other.get_weights()
    with pytest.raises(ValueError, match=r"another model.*kernel.*\(3, 2\).*\(3, 5\)"):
        training.restore_checkpoint(other, tmp_path / "checkpoint.safetensors")
    for a, b in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_failed_write_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    model = network(2)
    training.save_checkpoint(model, path, epoch=1)

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        training.save_checkpoint(model, path, epoch=2)
    assert training.restore_checkpoint(model, path) == 1

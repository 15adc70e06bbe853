import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import small_run
import tensorflow as tf

from keras_llm import training


class Killed(keras.callbacks.Callback):
    """Stops a run after some batches, in the middle of an epoch."""

    def __init__(self, batches):
        super().__init__()
        self.batches_left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.batches_left -= 1
        if not self.batches_left:
            raise KeyboardInterrupt


def test_interrupted_run_ends_bit_for_bit_where_the_whole_run_does(tmp_path, replicas):
    whole, history = small_run.run(replicas, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        killed = Killed(batches=2 * small_run.STEPS + 2)
        small_run.run(replicas, tmp_path / "killed", callbacks=[killed])
    resumed, resumed_history = small_run.run(replicas, tmp_path / "killed")
    variables = zip(
        [*whole.variables, *whole.optimizer.variables],  # with the states of dropout's seeds
        [*resumed.variables, *resumed.optimizer.variables],
        strict=True,
    )
    for a, b in variables:
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert resumed_history == history
    assert len(history["loss"]) == len(history["val_loss"]) == small_run.EPOCHS


def test_finished_run_is_not_trained_again(tmp_path):
    first, history = small_run.run(tf.distribute.get_strategy(), tmp_path)
    again, same_history = small_run.run(tf.distribute.get_strategy(), tmp_path)
    assert same_history == history
    np.testing.assert_array_equal(first.get_weights()[0], again.get_weights()[0])


def test_folder_holds_log_curves_checkpoint_and_tensorboard(tmp_path):
    small_run.run(tf.distribute.get_strategy(), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"checkpoint.safetensors", "curves.png", "history.csv", "tensorboard"}
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").rglob("events.out.tfevents.*"))


def free_ports(count):
    """Returns ports on loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def test_two_hosts_train_as_one(tmp_path):
    """Two processes on loopback against one process on the same global batches."""
    ports = [str(port) for port in free_ports(2)]
    command = [sys.executable, small_run.__file__, str(tmp_path)]
    hosts = [
        subprocess.Popen([*command, str(index), *ports], stderr=subprocess.PIPE, text=True)
        for index in range(2)
    ]
    errors = [host.communicate(timeout=240)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], errors
    one, history = small_run.run(tf.distribute.get_strategy(), tmp_path / "one", dropout=0.0)
    two_history = training.read_history(tmp_path / "two" / "history.csv")
    assert two_history.keys() == history.keys()
    for name, values in history.items():
        np.testing.assert_allclose(two_history[name], values, rtol=1e-4, err_msg=name)
    for index in range(2):
        two = keras.models.clone_model(one)
        two.load_weights(tmp_path / f"host{index}.weights.h5")
        for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)

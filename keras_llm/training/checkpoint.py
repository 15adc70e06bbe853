"""Checkpoints that training goes on from as if it had never stopped, bit for bit.

Keras' own do not: `.weights.h5` leaves out the states of dropout's random seeds, `BackupAndRestore`
repeats batches and `tf.train.Checkpoint` silently skips layers in lists. Here every variable of
model and optimizer is written, with the epoch, to one safetensors file that appears whole or not at
all.
"""

import contextlib
from pathlib import Path

import keras
from keras import ops
from safetensors import safe_open
from safetensors.numpy import save_file

from keras_llm.storage import whole_file
from keras_llm.training.distribution import is_first_worker


def save_checkpoint(model, path, epoch):
    """Writes all variables of a compiled model and its optimizer.

    Args:
        model: A compiled `keras.Model`.
        path: Path of the file, for example `"runs/bert/checkpoint.safetensors"`.
        epoch: Int, how many epochs are done.

    Example:
        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_checkpoint(model, f"{folder}/checkpoint.safetensors", epoch=3)
        ...     restore_checkpoint(model, f"{folder}/checkpoint.safetensors")
        3
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: ops.convert_to_numpy(variable) for name, variable in _variables(model).items()}
    with whole_file(path) as partial:
        save_file(arrays, partial, metadata={"epoch": str(epoch)})


def restore_checkpoint(model, path):
    """Reads the variables that `save_checkpoint` wrote back into the same model.

    Args:
        model: A compiled `keras.Model`, built as the one that was saved.
        path: Path of the file.

    Returns:
        Int, how many epochs were done; 0 where there is no such file.

    Raises:
        ValueError: the file belongs to another model or optimizer; the message names the first
            difference.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> restore_checkpoint(model, "no/such/checkpoint.safetensors")
        0
    """
    path = Path(path)
    if not path.exists():
        return 0
    variables = _variables(model)
    with safe_open(path, framework="numpy") as checkpoint:
        _check_same(path, variables, checkpoint)
        for name, variable in variables.items():
            variable.assign(checkpoint.get_tensor(name))
        return int(checkpoint.metadata()["epoch"])


def _check_same(path, variables, checkpoint):
    """Raises ValueError unless the file holds just these variables, before any is changed."""
    saved = {name: tuple(checkpoint.get_slice(name).get_shape()) for name in checkpoint.keys()}  # noqa: SIM118
    wanted = {name: tuple(variable.shape) for name, variable in variables.items()}
    different = sorted(
        name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name)
    )
    if different:
        name = different[0]
        raise ValueError(
            f"{path} is the checkpoint of another model or optimizer: {len(different)} variables "
            f"differ, the first is {name} (shape in the file: {saved.get(name, 'absent')}, in the "
            f"model: {wanted.get(name, 'absent')}). Train in another folder, or delete the file to "
            "start again."
        )


def _variables(model):
    """Returns all variables of model (seeds included) and optimizer by names of their own."""
    if not model.optimizer.built:
        strategy = getattr(model, "_distribute_strategy", None)
        with strategy.scope() if strategy else contextlib.nullcontext():
            model.optimizer.build(model.trainable_variables)
    # Numbers and not paths: Keras numbers unnamed layers anew for every model of a process.
    weights = {f"model/{i:04d}/{v.name}": v for i, v in enumerate(model.variables)}
    moments = {f"optimizer/{i:04d}": v for i, v in enumerate(model.optimizer.variables)}
    return weights | moments


class Checkpoint(keras.callbacks.Callback):
    """Writes a checkpoint at the end of every epoch; on several hosts the first one does.

    Args:
        path: Path of the file, on a file system that all hosts see.

    Example:
        >>> callback = Checkpoint("runs/bert/checkpoint.safetensors")
    """

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        """Saves, counting the epoch that just ended."""
        if is_first_worker(self.model):
            save_checkpoint(self.model, self.path, epoch + 1)

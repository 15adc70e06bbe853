"""`model.fit` with what a long run needs: resume, TensorBoard, a log and curves in one folder."""

import csv
from pathlib import Path

import keras

from keras_llm.training.checkpoint import Checkpoint, restore_checkpoint
from keras_llm.training.curves import plot_curves
from keras_llm.training.distribution import is_first_worker


def fit(
    model,
    dataset,
    *,
    folder,
    epochs,
    steps_per_epoch,
    validation_data=None,
    callbacks=(),
    verbose="auto",
):
    """Trains, and goes on where an earlier run in the same folder stopped.

    An epoch is a stretch of `steps_per_epoch` batches after which the model is evaluated and saved.
    The folder receives `checkpoint.safetensors`, `history.csv`, `curves.png` and `tensorboard/`.
    Kill it at any time and call it again: the weights at the end are the same bits as without the
    interruption, for the data go on at the batch where the checkpoint was taken.

    Args:
        model: A compiled `keras.Model`.
        dataset: A `tf.data.Dataset` of at least `epochs * steps_per_epoch` batches whose order is
            the same each time, as those of `keras_llm.objectives`.
        folder: Path of the run's folder; on several hosts, one that all of them see.
        epochs: Int, how many epochs the whole run has.
        steps_per_epoch: Int, batches an epoch.
        validation_data: A finite `tf.data.Dataset`, or None.
        callbacks: A sequence of further `keras.callbacks.Callback`.
        verbose: As in `keras.Model.fit`.

    Returns:
        A dict from the name of a metric to the list of its values, one an epoch, from the first
        epoch on.

    Raises:
        ValueError: the folder holds the checkpoint of another model.

    Example:
        >>> import tempfile
        >>> import tensorflow as tf
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> data = tf.data.Dataset.from_tensors((tf.ones((8, 2)), tf.ones((8, 1)))).repeat()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     history = fit(model, data, folder=folder, epochs=2, steps_per_epoch=3, verbose=0)
        >>> len(history["loss"])
        2
    """
    folder = Path(folder)
    done = restore_checkpoint(model, folder / "checkpoint.safetensors")
    if done < epochs:
        folder.mkdir(parents=True, exist_ok=True)
        model.fit(
            dataset.skip(done * steps_per_epoch),
            epochs=epochs,
            initial_epoch=done,
            steps_per_epoch=steps_per_epoch,
            validation_data=validation_data,
            callbacks=[*callbacks, *_recorders(model, folder)],
            shuffle=False,
            verbose=verbose,
        )
    history = read_history(folder / "history.csv")
    if is_first_worker(model):
        plot_curves(history, folder / "curves.png")
    return history


def _recorders(model, folder):
    """Returns the callbacks that write to the folder; the checkpoint last, when all is logged."""
    if not is_first_worker(model):
        return []
    recorders = [
        keras.callbacks.CSVLogger(folder / "history.csv", append=True),
        Checkpoint(folder / "checkpoint.safetensors"),
    ]
    if keras.backend.backend() == "tensorflow":
        recorders.insert(0, keras.callbacks.TensorBoard(folder / "tensorboard"))
    return recorders


def read_history(path):
    r"""Reads the log that `fit` writes.

    Args:
        path: Path of `history.csv`.

    Returns:
        A dict from the name of a metric to the list of its values, one an epoch.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "history.csv")
        ...     _ = path.write_text("epoch,loss\n0,3.5\n1,2.5\n")
        ...     read_history(path)
        {'loss': [3.5, 2.5]}
    """
    with open(path, newline="") as file:
        # A run killed after the log and before the checkpoint repeats that epoch: the later line
        # counts.
        epochs = {int(row.pop("epoch")): row for row in csv.DictReader(file)}
    first = next(iter(epochs.values()), {})
    names = [
        name for name, value in first.items() if value != "NA"
    ]  # Keras' mark for no validation
    return {name: [float(epochs[epoch][name]) for epoch in sorted(epochs)] for name in names}

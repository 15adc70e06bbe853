"""What every task does with strings: check them, batch them, shuffle them by a seed."""

import math

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from keras_llm.models.encoder import without_pooler
from keras_llm.training import TrainingMixin


class TextTask(TrainingMixin, keras_hub.models.Task):
    """A KerasHub task whose `fit` and `evaluate` take lists of strings.

    A subclass has a `preprocessor` that turns a batch of strings into the inputs of the model, and
    `targets_name`, the word for its targets in messages. It may override `_as_texts` and
    `_as_targets`, where a text or a target is no string, `_check_targets`, to refuse targets before
    anything is trained, and `_batches`, what a step is trained on.
    """

    @classmethod
    def from_config(cls, config):
        """Builds the model from `get_config`'s result."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("backbone", "tokenizer")
        }
        return cls(**{**config, **parts})

    def fit(
        self,
        x,
        y=None,
        batch_size=32,
        epochs=1,
        sample_weight=None,
        validation_data=None,
        seed=0,
        **kwargs,
    ):
        """Trains on texts and their targets: labels, or other texts.

        Args:
            x: list of str; or a batched `tf.data.Dataset` of pairs (texts, targets).
            y: list of str, the targets; None with a dataset.
            batch_size: int, texts a step, of all replicas together.
            epochs: int, passes over the texts.
            sample_weight: list of float, or None.
            validation_data: a pair (texts, targets), or a dataset as for `x`.
            seed: int, of the order in which a list is shuffled, anew each epoch.
            **kwargs: further arguments of `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: no texts, no targets, not as many targets as texts, or a target that the
                task does not know; nothing is trained then.
            TypeError: a single string, or a list of something else than strings.
        """
        if isinstance(validation_data, (tuple, list)):
            columns = self._columns(*validation_data)
            validation_data = tf.data.Dataset.from_tensor_slices(columns).batch(batch_size)
        if not isinstance(x, tf.data.Dataset):
            columns = self._columns(x, y, sample_weight)
            kwargs["steps_per_epoch"] = math.ceil(int(tf.shape(columns[0])[0]) / batch_size)
            x = self._batches(columns, batch_size, epochs, seed)
        return super().fit(
            x, epochs=epochs, validation_data=validation_data, shuffle=False, **kwargs
        )

    def evaluate(self, x, y=None, batch_size=32, sample_weight=None, return_dict=True, **kwargs):
        """Measures loss and accuracy on texts and their targets.

        Args:
            x: as in `fit`.
            y: as in `fit`.
            batch_size: int, texts a step.
            sample_weight: list of float, or None.
            return_dict: bool. False gives Keras' list without names.
            **kwargs: further arguments of `keras.Model.evaluate`.

        Returns:
            A dict of `loss` and `accuracy`.
        """
        # `fit` calls this too, with batches that are ready.
        if not (isinstance(x, tf.data.Dataset) or kwargs.get("_use_cached_eval_dataset")):
            columns = self._columns(x, y, sample_weight)
            x, y = tf.data.Dataset.from_tensor_slices(columns).batch(batch_size), None
        return super().evaluate(x, y, return_dict=return_dict, **kwargs)

    def _columns(self, x, y, sample_weight=None):
        """Returns texts, targets and, where given, weights, checked before any work is done."""
        texts = self._as_texts(x)
        if y is None:
            raise ValueError(
                f"{self.targets_name.capitalize()} are missing: pass them beside the texts, "
                f"`fit(texts, {self.targets_name})`."
            )
        targets = self._as_targets(y)
        if len(targets) != len(texts):
            raise ValueError(
                f"There must be as many {self.targets_name} as texts; got {len(texts)} texts, "
                f"{len(targets)} {self.targets_name}."
            )
        self._check_targets(targets)
        columns = [texts, targets]
        if sample_weight is not None:
            columns.append(np.asarray(sample_weight, "float32"))
        return tuple(columns)

    def _as_texts(self, x):
        """Returns the texts as a list of str, or of rows of str."""
        return as_strings(x, "texts")

    def _as_targets(self, y):
        """Returns the targets as a list or array of str; those of a text may be a row."""
        return as_strings(y, self.targets_name)

    def _check_targets(self, targets):
        """Raises ValueError where there is a target that the task cannot learn."""

    def _batches(self, columns, batch_size, epochs, seed):
        """Returns the batches of all epochs; the order depends on seed and epoch alone.

        A dataset that reshuffles when it is iterated again would give another order under
        tf.distribute, where Keras looks at a batch before it trains.
        """
        columns = [column if tf.is_tensor(column) else tf.constant(column) for column in columns]

        def one_epoch(epoch):
            rows = tf.range(tf.shape(columns[0])[0])
            order = tf.random.experimental.stateless_shuffle(rows, tf.stack([seed, epoch]))
            batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size)
            return batches.map(lambda rows: tuple(tf.gather(column, rows) for column in columns))

        return tf.data.Dataset.range(epochs).flat_map(one_epoch)


class ReadsTokens:
    """Mixin for a task that reads the vectors of the tokens: that of the whole text is not trained.

    Put it before the task in the bases.
    """

    @property
    def trainable_weights(self):
        """The weights that `fit` changes."""
        return without_pooler(super().trainable_weights, self.backbone)

    @property
    def trainable_variables(self):
        """The same, where Keras asks for them by this name."""
        return without_pooler(super().trainable_variables, self.backbone)


def as_strings(values, what):
    """Returns a list of str, or says what stands there instead.

    Args:
        values: iterable of str.
        what: str, what they are, in the plural.

    Returns:
        List of str.

    Raises:
        TypeError: a single string, or something else than a string among them.
        ValueError: there are none.

    Example:
        >>> as_strings(["good", 3], "texts")
        Traceback (most recent call last):
        TypeError: texts[1] is 3, not a string.
    """
    if isinstance(values, (str, bytes)):
        raise TypeError(f"Expected a list of {what}, got the string {values!r}: put it in a list.")
    values = list(values)
    if not values:
        raise ValueError(f"The list of {what} is empty.")
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise TypeError(f"{what}[{i}] is {value!r}, not a string.")
    return values


def check_sequence_length(sequence_length, limit):
    """Refuses a length that leaves no room for text or that the backbone has no positions for.

    Args:
        sequence_length: int, the most tokens of a text, with the first and the last.
        limit: int, the backbone's positions.

    Raises:
        ValueError: it is less than 3 or more than `limit`.
    """
    if not 3 <= sequence_length <= limit:
        raise ValueError(
            f"sequence_length={sequence_length} must be at least 3 and at most the backbone's "
            f"{limit} positions."
        )


def batches_of_like_length(columns, lengths, batch_size, epochs, seed):
    """Makes batches of texts of like length, with about as many tokens in each, in random order.

    So little of a batch is padding, and a token of a long text counts as much as one of a short
    text ("Attention Is All You Need", Vaswani et al., 2017, section 5.1).

    Args:
        columns: list of columns of the examples: lists of str or tensors.
        lengths: int array (examples,), the tokens of each.
        batch_size: int, the mean number of examples in a batch.
        epochs: int.
        seed: int. The order depends on it and on the epoch alone.

    Returns:
        A `tf.data.Dataset` of tuples, as many for each epoch as batches of the same size would be.
    """
    rows = [
        batch
        for epoch in range(epochs)
        for batch in _of_like_length(lengths, batch_size, np.random.default_rng([seed, epoch]))
    ]
    columns = [column if tf.is_tensor(column) else tf.constant(column) for column in columns]
    rows = tf.RaggedTensor.from_row_lengths(np.concatenate(rows), list(map(len, rows)))
    batches = tf.data.Dataset.from_tensor_slices(rows)
    return batches.map(lambda rows: tuple(tf.gather(column, rows) for column in columns))


def _of_like_length(lengths, batch_size, rng):
    """Splits numbered texts into batches of about as many tokens each, in random order."""
    count = math.ceil(len(lengths) / batch_size)
    # Not quite by length, so that every epoch has other batches.
    order = np.argsort(lengths * rng.uniform(0.8, 1.25, len(lengths)))
    before = np.cumsum(lengths[order]) - lengths[order]  # the tokens before each text
    starts = np.searchsorted(before, np.arange(count) * lengths.sum() / count)
    # Each batch has one text at least, however long others are.
    step = np.arange(count)
    starts = np.maximum.accumulate(starts - step) + step
    starts = np.minimum(starts, len(lengths) - count + step)
    batches = np.split(order, starts[1:])
    return [batches[i] for i in rng.permutation(count)]

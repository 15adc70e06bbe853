"""Text classification: one label for a text."""

import math

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from keras_llm.tasks.preprocessing import TextClassifierPreprocessor
from keras_llm.training import AdamW, GlobalMeanCrossentropy, TrainingMixin


@keras.saving.register_keras_serializable(package="keras_llm")
class TextClassifier(TrainingMixin, keras_hub.models.Task):
    """A backbone with a layer that tells classes apart: `fit`, `evaluate`, `predict` on strings.

    "BERT" (Devlin et al., 2018), section 4.1: the vector of the text, dropout, one dense layer.

    Args:
        backbone: `keras_llm.models.BertBackbone`, or a KerasHub backbone that has a
            `pooled_output`.
        tokenizer: the tokenizer that the backbone was pretrained with.
        classes: list of str, the names of the classes.
        sequence_length: int, the most tokens of a text; the rest is cut off. By default what the
            backbone takes, 128 at most.
        dropout: float in [0, 1), on the vector of the text.
        pooling: str, where the vector of the text comes from. "cls" is the backbone's pooled
            `[CLS]`, as in BERT. "mean" puts the mean over all tokens through the same layer
            ("Sentence-BERT", Reimers and Gurevych, 2019, section 3): better where pretraining was
            too short for `[CLS]` to learn to sum up a text.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Raises:
        ValueError: fewer than two classes, or a name twice; `sequence_length` is more than the
            backbone has positions; the tokenizer has more tokens than the backbone; another
            `pooling`.

    Example:
        >>> from keras_llm.models import BertBackbone
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> keras.utils.set_random_seed(0)
        >>> texts = ["你好，世界！", "再见，世界！"] * 8
        >>> labels = ["greeting", "farewell"] * 8
        >>> tokenizer = WordPieceTokenizer.train(texts, vocabulary_size=22)
        >>> model = TextClassifier(BertBackbone.tiny(22), tokenizer, ["farewell", "greeting"])
        >>> model.compile(optimizer=AdamW(1e-3))
        >>> history = model.fit(texts, labels, epochs=8, verbose=0)
        >>> model.predict(["你好！"], verbose=0)["label"].tolist()
        ['greeting']
    """

    def __init__(
        self,
        backbone,
        tokenizer,
        classes,
        sequence_length=None,
        dropout=0.1,
        pooling="cls",
        **kwargs,
    ):
        limit = getattr(backbone, "max_sequence_length", None) or 128
        sequence_length = sequence_length or min(limit, 128)
        _check(backbone, tokenizer, classes, sequence_length, limit)
        if pooling not in ("cls", "mean"):
            raise ValueError(f'pooling must be "cls" or "mean", not {pooling!r}.')

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = TextClassifierPreprocessor(tokenizer, classes, sequence_length)
        self.output_dropout = keras.layers.Dropout(
            dropout, dtype=backbone.dtype_policy, name="output_dropout"
        )
        self.output_dense = keras.layers.Dense(
            len(classes),
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            dtype="float32",  # logits keep their digits under every precision
            name="output_dense",
        )

        # === Functional Model ===
        encoded = backbone(backbone.input)
        pooled = encoded["pooled_output"]  # (batch, hidden_dim)
        if pooling == "mean":
            average = keras.layers.GlobalAveragePooling1D(dtype=backbone.dtype_policy)
            mean = average(encoded["sequence_output"], mask=backbone.input["padding_mask"])
            pooled = backbone.pooled_dense(mean)
        logits = self.output_dense(self.output_dropout(pooled))  # (batch, classes)
        super().__init__(inputs=backbone.input, outputs=logits, **kwargs)

        # === Config ===
        self.classes = list(classes)
        self.sequence_length = sequence_length
        self.dropout = dropout
        self.pooling = pooling

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "tokenizer": keras.saving.serialize_keras_object(self.preprocessor.tokenizer),
            "classes": self.classes,
            "sequence_length": self.sequence_length,
            "dropout": self.dropout,
            "pooling": self.pooling,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        """Builds the model from `get_config`'s result."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("backbone", "tokenizer")
        }
        return cls(**{**config, **parts})

    def compile(self, optimizer="auto", loss="auto", *, weighted_metrics="auto", **kwargs):
        """Sets up training; by default with cross-entropy and accuracy.

        Args:
            optimizer: `keras.optimizers.Optimizer`; "auto" is `training.AdamW(5e-5)`, the highest
                of BERT's rates for fine-tuning (Devlin et al. 2018, appendix A.3).
            loss: as in `keras.Model.compile`.
            weighted_metrics: as in `keras.Model.compile`.
            **kwargs: further arguments of `keras.Model.compile`.
        """
        if weighted_metrics == "auto":
            weighted_metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        super().compile(
            AdamW(5e-5) if optimizer == "auto" else optimizer,
            GlobalMeanCrossentropy() if loss == "auto" else loss,
            weighted_metrics=weighted_metrics,
            **kwargs,
        )

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
        """Trains on texts and their labels.

        Args:
            x: list of str; or a batched `tf.data.Dataset` of pairs (texts, labels).
            y: list of str, names in `classes`; None with a dataset.
            batch_size: int, texts a step, of all replicas together.
            epochs: int, passes over the texts.
            sample_weight: list of float, or None.
            validation_data: a pair (texts, labels), or a dataset as for `x`.
            seed: int, of the order in which a list is shuffled, anew each epoch.
            **kwargs: further arguments of `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: no texts, no labels, not as many labels as texts, or a label that is not in
                `classes`; nothing is trained then.
            TypeError: a single string, or a list of something else than strings.
        """
        if isinstance(validation_data, (tuple, list)):
            columns = self._columns(*validation_data)
            validation_data = tf.data.Dataset.from_tensor_slices(columns).batch(batch_size)
        if not isinstance(x, tf.data.Dataset):
            columns = self._columns(x, y, sample_weight)
            kwargs["steps_per_epoch"] = math.ceil(len(columns[0]) / batch_size)
            x = _shuffled(columns, batch_size, epochs, seed)
        return super().fit(
            x, epochs=epochs, validation_data=validation_data, shuffle=False, **kwargs
        )

    def evaluate(self, x, y=None, batch_size=32, sample_weight=None, return_dict=True, **kwargs):
        """Measures loss and accuracy on texts and their labels.

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

    def predict(self, x, batch_size=32, **kwargs):
        """Names the class of each text.

        Args:
            x: list of str, or a batched `tf.data.Dataset` of texts.
            batch_size: int, texts a step.
            **kwargs: further arguments of `keras.Model.predict`.

        Returns:
            A dict of `label`, strings (texts,), and `probabilities`, float32 (texts, classes), as
            an export returns.
        """
        if not isinstance(x, tf.data.Dataset):
            x = tf.data.Dataset.from_tensor_slices(_strings(x, "texts")).batch(batch_size)
        logits = super().predict(x, **kwargs)
        probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
        return {
            "label": np.array(self.classes)[probabilities.argmax(axis=1)],
            "probabilities": probabilities,
        }

    def serve(self, text):
        """What an export computes, as a graph.

        Args:
            text: string tensor (batch,).

        Returns:
            A dict of `label`, string (batch,), and `probabilities`, float32 (batch, classes).
        """
        probabilities = tf.nn.softmax(self(self.preprocessor(text), training=False))
        label = tf.gather(tf.constant(self.classes), tf.argmax(probabilities, axis=1))
        return {"label": label, "probabilities": probabilities}

    def _columns(self, x, y, sample_weight=None):
        """Returns texts, labels and, where given, weights, checked before any work is done."""
        texts = _strings(x, "texts")
        columns = [texts, self._labels(y, len(texts))]
        if sample_weight is not None:
            columns.append(np.asarray(sample_weight, "float32"))
        return tuple(columns)

    def _labels(self, y, count):
        """Returns the labels as a list of names in `classes`, one a text."""
        if y is None:
            raise ValueError(
                "Labels are missing: pass them beside the texts, `fit(texts, labels)`."
            )
        labels = _strings(y, "labels")
        if len(labels) != count:
            raise ValueError(f"Each text needs one label; got {count} texts, {len(labels)} labels.")
        unknown = sorted(set(labels) - set(self.classes))
        if unknown:
            raise ValueError(
                f"{len(unknown)} labels are not in classes={self.classes}: {unknown[:5]}. Correct "
                "them, or build the classifier with all of its classes."
            )
        return labels


def _shuffled(columns, batch_size, epochs, seed):
    """Returns the batches of all epochs; the order depends on seed and epoch alone.

    A dataset that reshuffles when it is iterated again would give another order under
    tf.distribute, where Keras looks at a batch before it trains.
    """
    columns = [tf.constant(column) for column in columns]

    def one_epoch(epoch):
        rows = tf.range(tf.shape(columns[0])[0])
        order = tf.random.experimental.stateless_shuffle(rows, tf.stack([seed, epoch]))
        batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size)
        return batches.map(lambda rows: tuple(tf.gather(column, rows) for column in columns))

    return tf.data.Dataset.range(epochs).flat_map(one_epoch)


def _strings(values, what):
    """Returns a list of str, or says what stands there instead."""
    if isinstance(values, (str, bytes)):
        raise TypeError(f"Expected a list of {what}, got the string {values!r}: put it in a list.")
    values = list(values)
    if not values:
        raise ValueError(f"The list of {what} is empty.")
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise TypeError(f"{what}[{i}] is {value!r}, not a string.")
    return values


def _check(backbone, tokenizer, classes, sequence_length, limit):
    """Raises ValueError where the parts of a classifier do not fit together."""
    classes = _strings(classes, "classes")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be two or more different names, not {classes}.")
    if not 3 <= sequence_length <= limit:
        raise ValueError(
            f"sequence_length={sequence_length} must be at least 3 and at most the backbone's "
            f"{limit} positions."
        )
    tokens = getattr(tokenizer, "vocabulary", None)  # None: Keras loads a file and sets it later
    if tokens is not None and len(tokens) > backbone.vocabulary_size:
        raise ValueError(
            f"The tokenizer has {len(tokens)} tokens and the backbone only "
            f"{backbone.vocabulary_size}. Use the tokenizer that the backbone was trained with."
        )

"""Text classification: one label for a text, or any number of them.

Notable:

- names of classes go in and come out, in `fit`, in `predict` and in an export; numbers stay inside;
- the probabilities can be made to mean what they say: `calibrate`;
- a label can be withheld where the model is not sure: `abstain_below`.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_llm.models.encoder import sequence_output
from keras_llm.models.sizes import check_vocabulary
from keras_llm.tasks.calibration import (
    TemperatureScaling,
    best_temperature,
    expected_calibration_error,
)
from keras_llm.tasks.preprocessing import TextClassifierPreprocessor, by_length
from keras_llm.tasks.text_task import TextTask, as_strings, check_sequence_length
from keras_llm.training import AdamW, GlobalMeanBinaryCrossentropy, GlobalMeanCrossentropy


class Classifier(TextTask):
    """A task that names classes; how it scores them is what a subclass is.

    A subclass has `classes`, their names, a `TextClassifierPreprocessor` as `preprocessor`, and a
    `TemperatureScaling` as `temperature_scaling`, which all logits (batch, classes) go through.
    """

    targets_name = "labels"
    multi_label = False
    threshold = 0.5
    abstain_below = None
    abstain_label = ""

    def compile(self, optimizer="auto", loss="auto", *, weighted_metrics="auto", **kwargs):
        """Sets up training; by default with cross-entropy and accuracy.

        With `multi_label` the loss is the mean over all classes of all texts, accuracy the share of
        these that are right, and `f1` the mean of the classes' F1; the two are not weighted.

        Args:
            optimizer: `keras.optimizers.Optimizer`; "auto" is `training.AdamW(5e-5)`, the highest
                of BERT's rates for fine-tuning (Devlin et al. 2018, appendix A.3).
            loss: as in `keras.Model.compile`.
            weighted_metrics: as in `keras.Model.compile`.
            **kwargs: further arguments of `keras.Model.compile`.
        """
        if weighted_metrics == "auto" and self.multi_label:
            # Not weighted: class weights are of (text, class), and Keras' F1 takes those of texts.
            metrics = [
                MultiLabelAccuracy(threshold=self.threshold, name="accuracy"),
                MultiLabelF1(average="macro", threshold=self.threshold, name="f1"),
            ]
            kwargs.setdefault("metrics", metrics)
            weighted_metrics = None
        elif weighted_metrics == "auto":
            weighted_metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        if loss == "auto":
            loss = GlobalMeanBinaryCrossentropy() if self.multi_label else GlobalMeanCrossentropy()
        super().compile(
            AdamW(5e-5) if optimizer == "auto" else optimizer,
            loss,
            weighted_metrics=weighted_metrics,
            **kwargs,
        )

    def fit(self, x, y=None, *args, sample_weight=None, class_weight=None, **kwargs):
        """Trains on texts and their labels.

        Args:
            x: list of str; or a batched `tf.data.Dataset` of pairs (texts, labels).
            y: list of str, the labels; with `multi_label` list of tuples of str. In a dataset they
                are strings (batch, None) then, ragged or padded with "".
            *args: `batch_size` and `epochs`, see `TextTask.fit`.
            sample_weight: list of float, or None.
            class_weight: dict from names of classes to what their texts count, 1 where a class is
                not named; or "balanced": each class counts as much as every other, however rare
                it is. With `multi_label` it is what it counts that a text has the class, beside 1
                that it does not have it. Validation is not weighted.
            **kwargs: see `TextTask.fit`.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: no texts, no labels, not as many labels as texts, a label or a weight of a
                class that there is not; `class_weight` with a dataset.
            TypeError: a single string, or a list of something else than strings.
        """
        if class_weight is not None:
            if isinstance(x, tf.data.Dataset):
                raise ValueError(
                    "class_weight needs lists of texts and labels. Put weights into the dataset: "
                    "(texts, labels, weights)."
                )
            _, labels = self._columns(x, y)
            weights = self._label_weights(labels, class_weight)
            if sample_weight is None:
                sample_weight = weights
            else:  # (texts,) beside (texts,) or (texts, classes)
                sample_weight = (weights.T * np.asarray(sample_weight, "float32")).T
        return super().fit(x, y, *args, sample_weight=sample_weight, **kwargs)

    def predict(self, x, batch_size=32, **kwargs):
        """Names the class or the classes of each text.

        Args:
            x: list of str, or a batched `tf.data.Dataset` of texts.
            batch_size: int, texts a step.
            **kwargs: further arguments of `keras.Model.predict`.

        Returns:
            A dict of `label`, strings (texts,), and `probabilities`, float32 (texts, classes).
            With `multi_label`, `labels` instead, a list of tuples of str.
        """
        answer = self._answer(tf.constant(self._logits(x, batch_size, **kwargs)))
        answer = {name: values.numpy() for name, values in answer.items()}
        if self.multi_label:
            names = [tuple(name.decode() for name in row if name) for row in answer["labels"]]
            return {**answer, "labels": names}
        return {**answer, "label": np.array([name.decode() for name in answer["label"]])}

    def serve(self, text):
        """What an export computes, as a graph.

        Args:
            text: string tensor (batch,).

        Returns:
            A dict of `label`, string (batch,), and `probabilities`, float32 (batch, classes). With
            `multi_label`, `labels` instead, string (batch, classes): in the column of a class its
            name, or "" where it is not given.
        """
        return self.serve_tokens(self.serve_inputs(text))

    def serve_inputs(self, text):
        """What the model reads of texts: string tensor (batch,) to the preprocessor's dict."""
        return self.preprocessor(text)

    def serve_tokens(self, inputs):
        """The same as `serve` from the preprocessor's dict on."""
        return self._answer(self(inputs, training=False))

    def calibrate(self, x, y, batch_size=32, **kwargs):
        """Sets the temperature at which probabilities fit a validation set best.

        "On Calibration of Modern Neural Networks" (Guo et al., 2017), section 4.2. The labels of
        one class a text stay the same. The temperature is a weight: it is saved and exported, and
        `fit` does not change it. Take texts that the model was not trained on.

        Args:
            x: list of str.
            y: list of str, or with `multi_label` of tuples of str, the labels.
            batch_size: int, texts a step.
            **kwargs: further arguments of `keras.Model.predict`.

        Returns:
            A dict of `temperature`, float, and the expected calibration error on these texts
            without and with it, `ece_before` and `ece_after`. With `multi_label` it is that of the
            answers yes and no for all classes.

        Raises:
            ValueError, TypeError: as `fit`.
        """
        texts, labels = self._columns(x, y)
        temperature = self.temperature_scaling.temperature
        temperature.assign(1.0)
        logits = self._logits(texts, batch_size, **kwargs)
        truth = self._truth(labels)
        best = best_temperature(logits, truth, self._probabilities)
        temperature.assign(best)
        return {
            "temperature": best,
            "ece_before": self._calibration_error(logits, truth),
            "ece_after": self._calibration_error(logits / best, truth),
        }

    def report(self, x, y, batch_size=32, **kwargs):
        """Measures each class: a mean hides the rare ones.

        Args:
            x: list of str.
            y: list of str, or with `multi_label` of tuples of str, the labels.
            batch_size: int, texts a step.
            **kwargs: further arguments of `keras.Model.predict`.

        Returns:
            A dict from the name of a class to a dict of `precision`, the share of right ones among
            the texts that were given the class; `recall`, the share of those that were given it
            among the texts that have it; `f1`, their harmonic mean; and `support`, how many texts
            have it. A share of nothing is 0.

        Raises:
            ValueError, TypeError: as `fit`.
        """
        texts, labels = self._columns(x, y)
        answer = self._answer(tf.constant(self._logits(texts, batch_size, **kwargs)))
        given = self._truth(answer["labels" if self.multi_label else "label"])
        truth = self._truth(labels)  # (texts, classes)
        counts = np.stack([(given * truth).sum(0), given.sum(0), truth.sum(0)], axis=1).tolist()
        return {
            name: {
                "precision": right / max(given, 1.0),
                "recall": right / max(support, 1.0),
                "f1": 2 * right / max(given + support, 1.0),
                "support": int(support),
            }
            for name, (right, given, support) in zip(self.classes, counts, strict=True)
        }

    def _logits(self, x, batch_size, **kwargs):
        if not isinstance(x, tf.data.Dataset):
            x = tf.data.Dataset.from_tensor_slices(self._as_texts(x)).batch(batch_size)
        return super().predict(x, **kwargs)  # (texts, classes)

    def _probabilities(self, logits):
        return tf.sigmoid(logits) if self.multi_label else tf.nn.softmax(logits)

    def _answer(self, logits):
        """Turns logits into names, eagerly for `predict` and as a graph for `serve`."""
        classes = tf.constant(self.classes)
        probabilities = self._probabilities(logits)  # (batch, classes)
        if self.multi_label:
            labels = tf.where(probabilities >= self.threshold, classes, "")
            return {"labels": labels, "probabilities": probabilities}
        label = tf.gather(classes, tf.argmax(probabilities, axis=1))
        if self.abstain_below is not None:
            is_sure = tf.reduce_max(probabilities, axis=1) >= self.abstain_below
            label = tf.where(is_sure, label, self.abstain_label)
        return {"label": label, "probabilities": probabilities}

    def _calibration_error(self, logits, truth):
        probabilities = np.asarray(self._probabilities(logits))
        if self.multi_label:  # each yes and no is an answer
            confidence = np.maximum(probabilities, 1 - probabilities)
            return expected_calibration_error(
                confidence.ravel(), ((probabilities >= 0.5) == truth).ravel()
            )
        right = probabilities.argmax(axis=1) == truth.argmax(axis=1)
        return expected_calibration_error(probabilities.max(axis=1), right)

    def _truth(self, labels):
        """Returns float32 (texts, classes), 1 where a text has a class."""
        labels = tf.reshape(tf.constant(labels), (len(labels), -1, 1))  # (texts, names, 1)
        return tf.reduce_any(labels == tf.constant(self.classes), axis=1).numpy().astype("float32")

    def _label_weights(self, labels, class_weight):
        """Returns what each text counts, (texts,); with `multi_label` (texts, classes)."""
        truth = self._truth(labels)
        if class_weight == "balanced":
            support = truth.sum(axis=0)  # (classes,)
            others = len(truth) - support if self.multi_label else len(truth) / len(self.classes)
            weights = np.maximum(others, 1.0) / np.maximum(support, 1.0)
        else:
            unknown = sorted(set(class_weight) - set(self.classes))
            if unknown or min(class_weight.values(), default=0.0) < 0:
                raise ValueError(
                    f'class_weight must be "balanced" or a dict from names of '
                    f"classes={self.classes} to numbers of at least 0, not {class_weight!r}."
                )
            weights = np.array([class_weight.get(name, 1.0) for name in self.classes])
        if self.multi_label:
            return np.where(truth, weights, 1.0).astype("float32")
        return (truth @ weights).astype("float32")

    def _as_targets(self, y):
        """Returns the names of the texts; with `multi_label` as rows that "" fills up."""
        if not self.multi_label:
            return super()._as_targets(y)
        if isinstance(y, (str, bytes)):
            raise TypeError(f"Expected a list of tuples of labels, got the string {y!r}.")
        rows = [_names(names, i) for i, names in enumerate(y)]
        width = max([1, *map(len, rows)])
        return np.array([names + [""] * (width - len(names)) for names in rows])

    def _check_targets(self, targets):
        names = set(np.ravel(targets).tolist()) - ({""} if self.multi_label else set())
        unknown = sorted(names - set(self.classes))
        if unknown:
            raise ValueError(
                f"{len(unknown)} labels are not in classes={self.classes}: {unknown[:5]}. Correct "
                "them, or build the classifier with all of its classes."
            )


@keras.saving.register_keras_serializable(package="keras_llm")
class TextClassifier(Classifier):
    """A backbone with a layer that tells classes apart: `fit`, `evaluate`, `predict` on strings.

    "BERT" (Devlin et al., 2018), section 4.1: the vector of the text, dropout, one dense layer.

    Args:
        backbone: an encoder such as `keras_llm.models.BertBackbone`, ours or KerasHub's. One
            without a `pooled_output`, such as RoBERTa, gets a new layer for it.
        tokenizer: the tokenizer that the backbone was pretrained with.
        classes: list of str, the names of the classes.
        sequence_length: int, the most tokens of a text; the rest is cut off. By default what the
            backbone takes, 128 at most.
        dropout: float in [0, 1), on the vector of the text.
        pooling: str, where the vector of the text comes from. "cls" is the first token, `[CLS]`,
            put through a layer, as in BERT. "mean" puts the mean over all tokens through that layer
            ("Sentence-BERT", Reimers and Gurevych, 2019, section 3): better where pretraining was
            too short for `[CLS]` to learn to sum up a text.
        multi_label: bool. False: a text has one class, the probabilities of all classes add up to
            1 (softmax). True: each class is a question of its own (sigmoid), and the labels of a
            text are a tuple of names, which may be empty.
        threshold: float in (0, 1), with `multi_label`: the probability from which on a class is
            given. It may be set later, like `abstain_below`.
        abstain_below: float, without `multi_label`: where the highest probability is below, the
            label is `abstain_label`; None always names a class. Probabilities should be calibrated.
        abstain_label: str, what stands where no class is named.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Raises:
        ValueError: fewer than two classes (one with `multi_label`), or a name twice or empty;
            `sequence_length` is more than the backbone has positions; the tokenizer has more tokens
            than the backbone; another `pooling` or `threshold`; `abstain_below` with
            `multi_label`, or `abstain_label` is a class.

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

    preprocessor_class = TextClassifierPreprocessor

    def __init__(
        self,
        backbone,
        tokenizer,
        classes,
        sequence_length=None,
        dropout=0.1,
        pooling="cls",
        multi_label=False,
        threshold=0.5,
        abstain_below=None,
        abstain_label="",
        **kwargs,
    ):
        limit = getattr(backbone, "max_sequence_length", None) or 128
        sequence_length = sequence_length or min(limit, 128)
        check_sequence_length(sequence_length, limit)
        check_vocabulary(tokenizer, backbone)
        check_classes(classes, multi_label)
        if pooling not in ("cls", "mean"):
            raise ValueError(f'pooling must be "cls" or "mean", not {pooling!r}.')
        if not 0.0 < threshold < 1.0:
            raise ValueError(f"threshold must be more than 0 and less than 1, not {threshold}.")
        if abstain_below is not None and multi_label:
            raise ValueError(
                "abstain_below is for one label a text. With multi_label, no label is given where "
                "all probabilities are below `threshold`."
            )
        if abstain_label in classes:
            raise ValueError(f"abstain_label={abstain_label!r} is a class: choose another word.")

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = self.preprocessor_class(
            tokenizer,
            classes,
            sequence_length,
            segments="segment_ids" in backbone.input,
            multi_label=multi_label,
        )
        pooled_dense = getattr(backbone, "pooled_dense", None)
        if pooled_dense is None:
            pooled_dense = self.pooled_dense = keras.layers.Dense(
                backbone.hidden_dim,
                activation="tanh",
                kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
                dtype=backbone.dtype_policy,
                name="pooled_dense",
            )
        self.output_dropout = keras.layers.Dropout(
            dropout, dtype=backbone.dtype_policy, name="output_dropout"
        )
        self.output_dense = keras.layers.Dense(
            len(classes),
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            dtype="float32",  # logits keep their digits under every precision
            name="output_dense",
        )
        self.temperature_scaling = TemperatureScaling(dtype="float32", name="temperature_scaling")

        # === Functional Model ===
        encoded = backbone(backbone.input)
        x = sequence_output(encoded)  # (batch, length, hidden_dim)
        if pooling == "mean":
            average = keras.layers.GlobalAveragePooling1D(dtype=backbone.dtype_policy)
            pooled = pooled_dense(average(x, mask=backbone.input["padding_mask"]))
        elif isinstance(encoded, dict):
            pooled = encoded["pooled_output"]  # (batch, hidden_dim)
        else:
            pooled = pooled_dense(x[:, 0])
        logits = self.output_dense(self.output_dropout(pooled))  # (batch, classes)
        self.multi_label, self.threshold = multi_label, threshold  # `super` compiles by them
        super().__init__(inputs=backbone.input, outputs=self.temperature_scaling(logits), **kwargs)

        # === Config ===
        self.classes = list(classes)
        self.sequence_length = sequence_length
        self.dropout = dropout
        self.pooling = pooling
        self.abstain_below = abstain_below
        self.abstain_label = abstain_label

    def serve(self, text):
        """As of every `Classifier`; texts of like length are read together."""
        return self._serve(self.serve_inputs(text))

    def _serve(self, inputs):
        names = tf.TensorSpec([None, None] if self.multi_label else [None], tf.string)
        returns = {
            "labels" if self.multi_label else "label": names,
            "probabilities": tf.TensorSpec([None, len(self.classes)], tf.float32),
        }
        return by_length(self.serve_tokens, inputs, returns)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "tokenizer": keras.saving.serialize_keras_object(self.preprocessor.tokenizer),
            "classes": self.classes,
            "sequence_length": self.sequence_length,
            "dropout": self.dropout,
            "pooling": self.pooling,
            "multi_label": self.multi_label,
            "threshold": self.threshold,
            "abstain_below": self.abstain_below,
            "abstain_label": self.abstain_label,
            "name": self.name,
        }


def _names(names, i):
    """Returns the labels of a text as a list, checked."""
    if isinstance(names, (str, bytes)) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"labels[{i}] is {names!r}, not a tuple of strings.")
    return list(names)


def check_classes(classes, multi_label):
    """Refuses classes of which there are not enough, or two with one name.

    Args:
        classes: list of str, their names.
        multi_label: bool, whether a text has any number of them; one class is enough then.

    Raises:
        ValueError: fewer than two classes (one with `multi_label`), or a name twice or empty.
    """
    classes, least = as_strings(classes, "classes"), 1 if multi_label else 2
    if len(classes) < least or len(set(classes)) < len(classes) or "" in classes:
        raise ValueError(
            f"classes must be {'one' if multi_label else 'two'} or more different names, not "
            f"{classes}."
        )


class _FromLogits:
    """Mixin for a Keras metric of probabilities: takes logits."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Counts a batch: y_true (batch, classes) of 0 and 1, y_pred (batch, classes) logits."""
        return super().update_state(y_true, ops.sigmoid(y_pred), sample_weight)


@keras.saving.register_keras_serializable(package="keras_llm")
class MultiLabelAccuracy(_FromLogits, keras.metrics.BinaryAccuracy):
    """The share of right answers, yes or no, for all classes of all texts."""


@keras.saving.register_keras_serializable(package="keras_llm")
class MultiLabelF1(_FromLogits, keras.metrics.F1Score):
    """The F1 of classes, each a yes or no."""

"""Text classification: one label for a text."""

import keras
import numpy as np
import tensorflow as tf

from keras_llm.models.encoder import sequence_output
from keras_llm.models.sizes import check_vocabulary
from keras_llm.tasks.preprocessing import TextClassifierPreprocessor
from keras_llm.tasks.text_task import TextTask, as_strings, check_sequence_length
from keras_llm.training import AdamW, GlobalMeanCrossentropy


@keras.saving.register_keras_serializable(package="keras_llm")
class TextClassifier(TextTask):
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

    targets_name = "labels"

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
        self.preprocessor = TextClassifierPreprocessor(
            tokenizer, classes, sequence_length, segments="segment_ids" in backbone.input
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
            x = tf.data.Dataset.from_tensor_slices(as_strings(x, "texts")).batch(batch_size)
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

    def _check_targets(self, targets):
        unknown = sorted(set(targets) - set(self.classes))
        if unknown:
            raise ValueError(
                f"{len(unknown)} labels are not in classes={self.classes}: {unknown[:5]}. Correct "
                "them, or build the classifier with all of its classes."
            )


def _check(backbone, tokenizer, classes, sequence_length, limit):
    """Raises ValueError where the parts of a classifier do not fit together."""
    classes = as_strings(classes, "classes")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be two or more different names, not {classes}.")
    check_sequence_length(sequence_length, limit)
    check_vocabulary(tokenizer, backbone)

"""From strings to what a backbone reads, in a graph: the same in `fit` and in an export."""

import keras
import keras_hub
import tensorflow as tf


@keras.saving.register_keras_serializable(package="keras_llm")
class TextClassifierPreprocessor(keras_hub.models.Preprocessor):
    """Turns texts into `[CLS] tokens [SEP]` and names of classes into their numbers.

    A batch is padded to its longest text only: short texts stay cheap.

    Args:
        tokenizer: `keras_llm.tokenizers.WordPieceTokenizer` or a KerasHub tokenizer with `[CLS]`
            and `[SEP]`.
        classes: list of str, the names in the order of the model's outputs.
        sequence_length: int, the most tokens of a text, `[CLS]` and `[SEP]` included; the rest of a
            longer text is cut off.
        **kwargs: `name` of `keras.layers.Layer`.

    Call arguments:
        x: string tensor (batch,).
        y: string tensor (batch,) of names in `classes`, or None.
        sample_weight: float tensor (batch,), or None.

    Returns:
        The dict of `token_ids` int32, `segment_ids` int32 and `padding_mask` bool, each (batch,
        length), and where given the numbers int32 (batch,) and the weights.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine"])
        >>> preprocess = TextClassifierPreprocessor(tokenizer, ["bad", "good"], sequence_length=8)
        >>> x, y = preprocess(tf.constant(["fine fine", "fine"]), y=tf.constant(["good", "bad"]))
        >>> x["token_ids"].numpy().tolist(), y.numpy().tolist()
        ([[2, 5, 5, 3], [2, 5, 3, 0]], [1, 0])
    """

    def __init__(self, tokenizer, classes, sequence_length=128, **kwargs):
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.classes = list(classes)
        self.sequence_length = sequence_length

    def call(self, x, y=None, sample_weight=None):
        """Returns the inputs, the numbers of the classes and the weights."""
        inputs = self._inputs(tf.convert_to_tensor(x, tf.string))
        if y is not None:
            y = self._numbers(tf.convert_to_tensor(y, tf.string))
        return keras.utils.pack_x_y_sample_weight(inputs, y, sample_weight)

    def _inputs(self, texts):
        tokens = self.tokenizer(texts)[:, : self.sequence_length - 2]  # ragged (batch, None)
        first = tf.fill((tf.shape(texts)[0], 1), self.tokenizer.cls_token_id)
        last = tf.fill((tf.shape(texts)[0], 1), self.tokenizer.sep_token_id)
        rows = tf.concat([first, tokens, last], axis=1)
        length = tf.reduce_max(tf.concat([rows.row_lengths(), [2]], axis=0))  # of no texts: 2
        token_ids = rows.to_tensor(self.tokenizer.pad_token_id, shape=tf.stack([-1, length]))
        return {
            "token_ids": token_ids,
            "segment_ids": tf.zeros_like(token_ids),
            "padding_mask": tf.sequence_mask(rows.row_lengths(), length),
        }

    def _numbers(self, names):
        matches = names[:, None] == tf.constant(self.classes)  # (batch, classes)
        known = tf.Assert(
            tf.reduce_all(tf.reduce_any(matches, axis=1)),
            ["Labels that are not in classes", self.classes, "Labels of the batch:", names],
        )
        with tf.control_dependencies([known] if known is not None else []):
            return tf.argmax(matches, axis=1, output_type=tf.int32)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "classes": self.classes,
            "sequence_length": self.sequence_length,
        }

"""From strings to what a backbone reads, in a graph: the same in `fit` and in an export."""

import keras
import keras_hub
import tensorflow as tf


@keras.saving.register_keras_serializable(package="keras_llm")
class EncoderPreprocessor(keras_hub.models.Preprocessor):
    """Turns texts into `[CLS] tokens [SEP]`, or whatever the tokenizer's first and last token are.

    A batch is padded to its longest text only: short texts stay cheap.

    Args:
        tokenizer: a tokenizer of `keras_llm.tokenizers` or of KerasHub with a start, an end and a
            padding token.
        sequence_length: int, the most tokens of a text, the first and the last included; the rest
            of a longer text is cut off.
        segments: bool, whether the model reads `segment_ids`.
        **kwargs: `name` of `keras.layers.Layer`.

    Call arguments:
        x: string tensor (batch,).
        y: targets, or None.
        sample_weight: float tensor (batch,), or None.

    Returns:
        The dict of `token_ids` int32, `padding_mask` bool and, with `segments`, `segment_ids`
        int32, each (batch, length), and where given targets and weights as they are.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine"])
        >>> preprocess = EncoderPreprocessor(tokenizer, sequence_length=8)
        >>> preprocess(tf.constant(["fine fine", "fine"]))["token_ids"].numpy().tolist()
        [[2, 5, 5, 3], [2, 5, 3, 0]]
    """

    def __init__(self, tokenizer, sequence_length=128, segments=True, **kwargs):
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.segments = segments

    def call(self, x, y=None, sample_weight=None):
        """Returns the inputs, the targets and the weights."""
        inputs = self._inputs(tf.convert_to_tensor(x, tf.string))
        return keras.utils.pack_x_y_sample_weight(inputs, y, sample_weight)

    def _inputs(self, texts):
        tokens = self.tokenizer(texts)[:, : self.sequence_length - 2]  # ragged (batch, None)
        first = tf.fill((tf.shape(texts)[0], 1), self.tokenizer.start_token_id)
        last = tf.fill((tf.shape(texts)[0], 1), self.tokenizer.end_token_id)
        rows = tf.concat([first, tokens, last], axis=1)
        token_ids, padding_mask = _padded(rows, self.tokenizer.pad_token_id)
        inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
        return inputs | {"segment_ids": tf.zeros_like(token_ids)} if self.segments else inputs

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "sequence_length": self.sequence_length,
            "segments": self.segments,
        }


@keras.saving.register_keras_serializable(package="keras_llm")
class TextClassifierPreprocessor(EncoderPreprocessor):
    """Turns texts into what an encoder reads and names of classes into their numbers.

    Args:
        tokenizer: as in `EncoderPreprocessor`.
        classes: list of str, the names in the order of the model's outputs.
        sequence_length: as in `EncoderPreprocessor`.
        segments: as in `EncoderPreprocessor`.
        **kwargs: `name` of `keras.layers.Layer`.

    Call arguments:
        x: string tensor (batch,).
        y: string tensor (batch,) of names in `classes`, or None.
        sample_weight: float tensor (batch,), or None.

    Returns:
        The dict of `token_ids` int32, `padding_mask` bool and, with `segments`, `segment_ids`
        int32, each (batch, length), and where given the numbers int32 (batch,) and the weights.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine"])
        >>> preprocess = TextClassifierPreprocessor(tokenizer, ["bad", "good"], sequence_length=8)
        >>> x, y = preprocess(tf.constant(["fine fine", "fine"]), y=tf.constant(["good", "bad"]))
        >>> x["token_ids"].numpy().tolist(), y.numpy().tolist()
        ([[2, 5, 5, 3], [2, 5, 3, 0]], [1, 0])
    """

    def __init__(self, tokenizer, classes, sequence_length=128, segments=True, **kwargs):
        super().__init__(tokenizer, sequence_length, segments, **kwargs)
        self.classes = list(classes)

    def call(self, x, y=None, sample_weight=None):
        """Returns the inputs, the numbers of the classes and the weights."""
        if y is not None:
            y = self._numbers(tf.convert_to_tensor(y, tf.string))
        return super().call(x, y, sample_weight)

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
        return {**super().get_config(), "classes": self.classes}


@keras.saving.register_keras_serializable(package="keras_llm")
class TranslatorPreprocessor(keras_hub.models.Preprocessor):
    """Turns sources and targets into what an encoder-decoder reads and is asked for.

    The source is `tokens [SEP]`. The decoder reads `[CLS] tokens` and is asked, at each position,
    for the token that comes next: `tokens [SEP]`. A batch is padded to its longest text only.

    Args:
        tokenizer: `keras_llm.tokenizers.WordPieceTokenizer` or another with an end and a padding
            token; targets begin with its start token, or the padding token where it has none.
        sequence_length: int, the most tokens of a source and of a target, with the end token; the
            rest of a longer text is cut off.
        **kwargs: `name` of `keras.layers.Layer`.

    Call arguments:
        x: string tensor (batch,), the sources.
        y: string tensor (batch,), the targets, or None.
        sample_weight: float tensor (batch,), or None.

    Returns:
        Without targets the dict of `encoder_token_ids` int32 and `encoder_padding_mask` bool, each
        (batch, source). With targets also `decoder_token_ids` and `decoder_padding_mask`, (batch,
        target), followed by the tokens asked for, int32 (batch, target), and their weights,
        float32 (batch, target), 0 at padding.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "day", "你", "好"]
        >>> preprocess = TranslatorPreprocessor(WordPieceTokenizer(words), sequence_length=8)
        >>> x, y, weights = preprocess(tf.constant(["good day"]), y=tf.constant(["你好"]))
        >>> x["encoder_token_ids"].numpy().tolist(), x["decoder_token_ids"].numpy().tolist()
        ([[5, 6, 3]], [[2, 7, 8]])
        >>> y.numpy().tolist()
        [[7, 8, 3]]
    """

    def __init__(self, tokenizer, sequence_length=128, **kwargs):
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length

    @property
    def start_token_id(self):
        """The token that targets begin with: that of the tokenizer, or padding, as in T5."""
        return getattr(self.tokenizer, "start_token_id", self.tokenizer.pad_token_id)

    def call(self, x, y=None, sample_weight=None):
        """Returns the inputs and, with targets, the tokens asked for and their weights."""
        pad = self.tokenizer.pad_token_id
        source, source_mask = _padded(self._ended(x), pad)
        inputs = {"encoder_token_ids": source, "encoder_padding_mask": source_mask}
        if y is None:
            return inputs

        labels = self._ended(y)  # ragged (batch, None)
        start = tf.fill((labels.nrows(), 1), self.start_token_id)
        read, mask = _padded(tf.concat([start, labels[:, :-1]], axis=1), pad)
        labels, _ = _padded(labels, pad)
        weights = tf.cast(mask, tf.float32)
        if sample_weight is not None:
            weights *= tf.cast(sample_weight, tf.float32)[:, None]
        inputs |= {"decoder_token_ids": read, "decoder_padding_mask": mask}
        return inputs, labels, weights

    def _ended(self, texts):
        """Returns the tokens of each text and the end token, ragged (batch, None)."""
        tokens = self.tokenizer(tf.convert_to_tensor(texts, tf.string))
        tokens = tokens[:, : self.sequence_length - 1]
        end = tf.fill((tokens.nrows(), 1), self.tokenizer.end_token_id)
        return tf.concat([tokens, end], axis=1)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "sequence_length": self.sequence_length}


def _padded(rows, pad_token_id):
    """Pads ragged rows to the longest, of 2 at least: ids int32 and a mask, True at real tokens."""
    length = tf.maximum(rows.bounding_shape(axis=1), 2)  # a batch of no texts has a shape too
    token_ids = rows.to_tensor(pad_token_id, shape=tf.stack([-1, length]))
    return token_ids, tf.sequence_mask(rows.row_lengths(), length)

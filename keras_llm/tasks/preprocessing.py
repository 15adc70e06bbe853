"""From strings to what a backbone reads, in a graph: the same in `fit` and in an export."""

from typing import NamedTuple

import keras
import keras_hub
import tensorflow as tf

from keras_llm.tokenizers import BytePairTokenizer


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
        return self._framed(tokens)

    def _framed(self, tokens):
        first = tf.fill((tokens.nrows(), 1), self.tokenizer.start_token_id)
        last = tf.fill((tokens.nrows(), 1), self.tokenizer.end_token_id)
        return self.pack(tf.concat([first, tokens, last], axis=1))

    def pack(self, rows):
        """Pads rows of tokens to the longest of them.

        Args:
            rows: int32 ragged (batch, None), the first and the last token included.

        Returns:
            The dict that the class describes.
        """
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
        multi_label: bool, whether a text has any number of classes.
        **kwargs: `name` of `keras.layers.Layer`.

    Call arguments:
        x: string tensor (batch,).
        y: string tensor (batch,) of names in `classes`; with `multi_label` (batch, None), ragged or
            padded with "", the names of each text; or None.
        sample_weight: float tensor (batch,), or None.

    Returns:
        The dict of `token_ids` int32, `padding_mask` bool and, with `segments`, `segment_ids`
        int32, each (batch, length), and where given the numbers int32 (batch,) and the weights.
        With `multi_label` float32 (batch, classes) for the numbers: 1 at the classes of a text.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine"])
        >>> preprocess = TextClassifierPreprocessor(tokenizer, ["bad", "good"], sequence_length=8)
        >>> x, y = preprocess(tf.constant(["fine fine", "fine"]), y=tf.constant(["good", "bad"]))
        >>> x["token_ids"].numpy().tolist(), y.numpy().tolist()
        ([[2, 5, 5, 3], [2, 5, 3, 0]], [1, 0])
    """

    def __init__(
        self,
        tokenizer,
        classes,
        sequence_length=128,
        segments=True,
        multi_label=False,
        **kwargs,
    ):
        super().__init__(tokenizer, sequence_length, segments, **kwargs)
        self.classes = list(classes)
        self.multi_label = multi_label

    def call(self, x, y=None, sample_weight=None):
        """Returns the inputs, the numbers of the classes and the weights."""
        if y is not None:
            y = self._numbers(y.to_tensor() if isinstance(y, tf.RaggedTensor) else y)
        return super().call(x, y, sample_weight)

    def _numbers(self, names):
        names = tf.convert_to_tensor(names, tf.string)
        matches = names[..., None] == tf.constant(self.classes)  # (batch, [names,] classes)
        known = tf.reduce_any(matches, axis=-1)
        if self.multi_label:
            known |= names == ""
        checked = tf.Assert(
            tf.reduce_all(known),
            ["Labels that are not in classes", self.classes, "Labels of the batch:", names],
        )
        with tf.control_dependencies([checked] if checked is not None else []):
            if self.multi_label:
                return tf.cast(tf.reduce_any(matches, axis=1), tf.float32)
            return tf.argmax(matches, axis=1, output_type=tf.int32)

    def get_config(self):
        """Returns the constructor's arguments."""
        config = super().get_config()
        return {**config, "classes": self.classes, "multi_label": self.multi_label}


class _ReadsTwoTexts:
    """Mixin for a preprocessor of rows `[CLS] text [SEP] text [SEP]`; put it first in the bases."""

    @property
    def num_separators(self):
        """How many tokens stand between the texts: RoBERTa (Liu et al., 2019) has two `</s>`."""
        return 2 if isinstance(self.tokenizer, BytePairTokenizer) else 1

    def pack(self, rows):
        """Pads rows of tokens to the longest of them, and tells the two texts apart."""
        inputs = super().pack(rows)
        if self.segments:
            token_ids, mask = inputs["token_ids"], inputs["padding_mask"]
            separator = tf.cast(token_ids == self.tokenizer.end_token_id, tf.int32)
            is_second = tf.cumsum(separator, axis=1, exclusive=True) > 0
            inputs["segment_ids"] = tf.cast(is_second & mask, tf.int32)
        return inputs


@keras.saving.register_keras_serializable(package="keras_llm")
class TextPairClassifierPreprocessor(_ReadsTwoTexts, TextClassifierPreprocessor):
    """Turns pairs of texts into `[CLS] text [SEP] text_pair [SEP]`, names of classes into numbers.

    Of byte-level tokenizers two `</s>` stand between the texts, as in "RoBERTa" (Liu et al., 2019).

    Args:
        tokenizer: as in `EncoderPreprocessor`.
        classes: as in `TextClassifierPreprocessor`.
        sequence_length: int, the most tokens of both texts, special ones included, at least 6. Of a
            pair that is longer the longer text is cut at its end until both are as long, then both
            alike. If one token is left over, the text that was longer has it, of equals the second.
        **kwargs: as in `TextClassifierPreprocessor`.

    Call arguments:
        x: string tensor (batch, 2).
        y: as in `TextClassifierPreprocessor`.
        sample_weight: as in `TextClassifierPreprocessor`.

    Returns:
        As `TextClassifierPreprocessor`; `segment_ids` are 0 for the first text, 1 for the second.

    Raises:
        ValueError: `sequence_length` is less than 6.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> words = ["who", "?", "ada", "came"]
        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
        >>> preprocess = TextPairClassifierPreprocessor(tokenizer, ["no", "yes"])
        >>> x = preprocess(tf.constant([["Who?", "Ada came"], ["Ada?", "Ada"]]))
        >>> x["token_ids"].numpy().tolist(), x["segment_ids"].numpy()[0].tolist()
        ([[2, 5, 6, 3, 7, 8, 3], [2, 7, 6, 3, 7, 3, 0]], [0, 0, 0, 0, 1, 1, 1])
    """

    def __init__(self, tokenizer, classes, sequence_length=128, **kwargs):
        super().__init__(tokenizer, classes, sequence_length, **kwargs)
        if sequence_length < 6:  # one token of each, first and last token, two separators
            raise ValueError(f"sequence_length={sequence_length} must be at least 6 for two texts.")

    def of_columns(self, text, text_pair):
        """Returns the inputs of two string tensors (batch,), as an export gets them."""
        first, second = self.tokenizer(text), self.tokenizer(text_pair)  # ragged (batch, None)
        room = self.sequence_length - self.num_separators - 2
        lengths, others = first.row_lengths(), second.row_lengths()
        half = (room + tf.cast(lengths > others, lengths.dtype)) // 2
        lengths = tf.minimum(lengths, tf.maximum(room - others, half))
        others = tf.minimum(others, room - lengths)
        end = tf.fill((tf.size(lengths), 1), self.tokenizer.end_token_id)
        first, second = _shortened(first, lengths), _shortened(second, others)
        return self._framed(tf.concat([first, *[end] * self.num_separators, second], axis=1))

    def _inputs(self, texts):
        return self.of_columns(*tf.unstack(texts, axis=1))


def _shortened(rows, lengths):
    """Cuts ragged rows at their ends to lengths (batch,), none of them more than there are."""
    starts = rows.row_starts()
    return tf.gather(rows.flat_values, tf.ragged.range(starts, starts + lengths))


# In a text these stand without a space before them; a byte-level piece tells the difference.
_WITHOUT_SPACE = r"\p{Han}\p{Hiragana}\p{Katakana}\x{FF00}-\x{FFEF}\p{P}\p{S}\s"


@keras.saving.register_keras_serializable(package="keras_llm")
class TokenClassifierPreprocessor(TextClassifierPreprocessor):
    """Turns words into the tokens of their pieces and says at which token each word begins.

    A word is judged by its first piece, as in "BERT" (Devlin et al., 2018), section 5.3. A word of
    which the tokenizer leaves nothing, such as a control character, is an unknown token; of a word
    that fills more than half of the model the rest is cut off.

    Args:
        tokenizer: as in `EncoderPreprocessor`.
        classes: list of str, the tags in the order of the model's outputs.
        sequence_length: as in `EncoderPreprocessor`. Words of a sentence that do not fit are
            neither read nor asked for.
        segments: as in `EncoderPreprocessor`.
        final_classes: list of str, the tags that a sentence may end with; None: all. With tags, a
            sentence that is too long is cut after one of these.
        **kwargs: `name` of `keras.layers.Layer`.

    Call arguments:
        x: string ragged tensor (batch, words).
        y: string ragged tensor (batch, words) of tags in `classes`, or None.
        sample_weight: float tensor (batch,), or None.

    Returns:
        The dict of `token_ids` int32, `padding_mask` bool and, with `segments`, `segment_ids`
        int32, each (batch, length), of `word_positions` int32, at which token a word begins, and
        `word_mask` bool, True at words, each (batch, words). With tags also their numbers, int32
        (batch, words), and weights, float32 (batch, words), 0 at padding.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> words = ["new", "##ly", "york"]
        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
        >>> preprocess = TokenClassifierPreprocessor(tokenizer, ["O", "B-place"], 8)
        >>> words = tf.ragged.constant([["newly", "york"], ["new"]])
        >>> x, y, weights = preprocess(words, y=tf.ragged.constant([["O", "B-place"], ["O"]]))
        >>> x["token_ids"].numpy().tolist(), x["word_positions"].numpy().tolist()
        ([[2, 5, 6, 7, 3], [2, 5, 3, 0, 0]], [[1, 3], [1, 0]])
        >>> y.numpy().tolist(), weights.numpy().tolist()
        ([[0, 1], [0, 0]], [[1.0, 1.0], [1.0, 0.0]])
    """

    def __init__(
        self,
        tokenizer,
        classes,
        sequence_length=128,
        segments=True,
        final_classes=None,
        **kwargs,
    ):
        super().__init__(tokenizer, classes, sequence_length, segments, **kwargs)
        self.final_classes = None if final_classes is None else list(final_classes)
        self.built = True  # else Keras would trace all of this once more to find out

    def call(self, x, y=None, sample_weight=None):
        """Returns the inputs and, with tags, their numbers and weights."""
        pieces = self.pieces(x)
        fits = running_ends(pieces, pieces.values.row_lengths()) <= self._capacity  # (all words,)
        if y is None:
            return self.pack_words(_chosen(pieces, fits))

        numbers = y.with_values(self._numbers(y.values))  # (batch, words)
        if self.final_classes is not None:
            final = tf.constant([name in self.final_classes for name in self.classes])
            count = running_ends(numbers, tf.ones_like(numbers.values))  # 1, 2, 3, ...
            last = tf.where(fits & tf.gather(final, numbers.values), count, 0)
            last = tf.math.unsorted_segment_max(last, numbers.value_rowids(), numbers.nrows())
            fits = count <= tf.gather(last, numbers.value_rowids())
        inputs = self.pack_words(_chosen(pieces, fits))
        numbers, mask = _padded(_chosen(numbers, fits), 0)
        weights = tf.cast(mask, tf.float32)
        if sample_weight is not None:
            weights *= tf.cast(sample_weight, tf.float32)[:, None]
        return inputs, numbers, weights

    @property
    def _capacity(self):
        return self.sequence_length - 2

    def pieces(self, words):
        """Cuts words into the tokens of their pieces.

        Args:
            words: string ragged (batch, words).

        Returns:
            int32 ragged (batch, words, pieces), one piece a word at least.
        """
        spaced = tf.strings.regex_replace(words.flat_values, rf"^([^{_WITHOUT_SPACE}])", r" \1")
        pieces = self.tokenizer(spaced)[:, : max(self._capacity // 2, 1)]  # (all words, pieces)
        unknown = getattr(self.tokenizer, "unk_token_id", self.tokenizer.end_token_id)
        nothing = tf.cast(pieces.row_lengths() == 0, tf.int64)  # (all words,)
        unknown = tf.fill(tf.reduce_sum(nothing)[tf.newaxis], unknown)
        unknown = tf.RaggedTensor.from_row_lengths(unknown, nothing, validate=False)
        return words.with_values(tf.concat([pieces, unknown], axis=1))

    def windows(self, pieces):
        """Cuts sentences that are too long into windows of whole words.

        Args:
            pieces: int32 ragged (batch, words, pieces).

        Returns:
            int32 ragged (windows, words, pieces), the same words in the same order; one window at
            least.
        """
        lengths = pieces.values.row_lengths()  # (all words,)
        starts = running_ends(pieces, lengths) - lengths
        sentence = pieces.value_rowids()
        longest = tf.math.unsorted_segment_max(lengths, sentence, pieces.nrows())  # (batch,)
        # Where a window begins every so many tokens, what the last word has beyond them fits too.
        room = self._capacity + 1 - tf.gather(longest, sentence)
        window = starts // room
        same = (sentence[1:] == sentence[:-1]) & (window[1:] == window[:-1])
        row = tf.cumsum(tf.concat([tf.zeros_like(sentence[:1]), tf.cast(~same, tf.int64)], axis=0))
        count = tf.reduce_max(tf.concat([[0], row], axis=0)) + 1
        return tf.RaggedTensor.from_value_rowids(pieces.values, row, count, validate=False)

    def pack_words(self, pieces):
        """Packs sentences that fit.

        Args:
            pieces: int32 ragged (batch, words, pieces).

        Returns:
            The dict that the class describes.
        """
        lengths = pieces.values.row_lengths()  # (all words,)
        positions = running_ends(pieces, lengths) - lengths + 1  # after the first token, [CLS]
        positions = pieces.with_values(tf.cast(positions, tf.int32))
        positions, word_mask = _padded(positions, 0)
        inputs = self._framed(pieces.merge_dims(1, 2))
        return {**inputs, "word_positions": positions, "word_mask": word_mask}

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "final_classes": self.final_classes}


class Windows(NamedTuple):
    """Windows of contexts, each with its question before it.

    Args:
        token_ids: int32 ragged (windows, None), `[CLS] question [SEP] window [SEP]`.
        question: int32 (windows,), the number of the question, in order.
        tokens: int32 ragged (windows, None), for each position the number of its token among the
            tokens of the contexts, laid end to end; -1 where no token of a context stands.
        starts: int32 ragged (windows, None), the character of the context at which it starts.
        ends: int32 ragged (windows, None), the character before which it ends; 0 where no token of
            a context stands.
        central: bool ragged (windows, None), whether of all windows this one shows the most of what
            is around the token. Each token of a context is central in one window.
    """

    token_ids: tf.RaggedTensor
    question: tf.Tensor
    tokens: tf.RaggedTensor
    starts: tf.RaggedTensor
    ends: tf.RaggedTensor
    central: tf.RaggedTensor


@keras.saving.register_keras_serializable(package="keras_llm")
class QuestionAnswererPreprocessor(_ReadsTwoTexts, EncoderPreprocessor):
    """Turns questions and contexts into `[CLS] question [SEP] window of the context [SEP]`.

    A context that is too long for the model is cut into windows that overlap, as in the code of
    "BERT" (Devlin et al., 2018). Between the question and the window of byte-level tokenizers stand
    two `</s>`, as in "RoBERTa" (Liu et al., 2019).

    Args:
        tokenizer: a tokenizer of `keras_llm.tokenizers` with `tokenize_with_offsets`.
        sequence_length: int, the most tokens of question and window, special ones included. A
            question has half of it at most; the rest of a longer one is cut off.
        stride: int, how many tokens after a window the next one begins. Windows overlap where it is
            less than their length.
        segments: as in `EncoderPreprocessor`.
        **kwargs: `name` of `keras.layers.Layer`.

    Call arguments:
        x: dict of `question` and `context`, string tensors (batch,).

    Returns:
        The dict of `token_ids` int32, `padding_mask` bool and, with `segments`, `segment_ids`
        int32, each (windows, length); `segment_ids` are 0 for the question, 1 for the window.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> words = ["who", "?", "washington", "spoke"]
        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
        >>> preprocess = QuestionAnswererPreprocessor(tokenizer, sequence_length=7, stride=2)
        >>> x = preprocess({"question": ["Who?"], "context": ["Who spoke? Washington"]})
        >>> x["token_ids"].numpy().tolist(), x["segment_ids"].numpy()[0].tolist()
        ([[2, 5, 6, 3, 5, 8, 3], [2, 5, 6, 3, 6, 7, 3]], [0, 0, 0, 0, 1, 1, 1])
    """

    def __init__(self, tokenizer, sequence_length=384, stride=128, segments=True, **kwargs):
        super().__init__(tokenizer, sequence_length, segments, **kwargs)
        self.stride = stride

    @property
    def max_question_length(self):
        """The most tokens of a question."""
        return (self.sequence_length - self.num_separators - 2) // 2

    def call(self, x, y=None, sample_weight=None):
        """Returns the inputs of all windows."""
        inputs = self.pack(self.windows(x["question"], x["context"]).token_ids)
        return keras.utils.pack_x_y_sample_weight(inputs, y, sample_weight)

    def windows(self, questions, contexts):
        """Cuts contexts into windows.

        Args:
            questions: string tensor (batch,).
            contexts: string tensor (batch,).

        Returns:
            `Windows`. Each context has one at least.
        """
        asked = self.tokenizer(tf.convert_to_tensor(questions, tf.string))
        asked = asked[:, : self.max_question_length]  # ragged (batch, question)
        contexts = tf.convert_to_tensor(contexts, tf.string)
        ids, starts, ends = self.tokenizer.tokenize_with_offsets(contexts)  # (batch, context)

        # A window begins at `first` and ends before `last` in the tokens of all contexts together.
        room = self.sequence_length - self.num_separators - 2 - asked.row_lengths()  # (batch,)
        step = tf.minimum(tf.cast(self.stride, room.dtype), room)
        further = tf.maximum(ids.row_lengths() - room, 0)  # tokens beyond the first window
        number = tf.ragged.range(1 + (further + step - 1) // step)  # (batch, windows)
        question = number.value_rowids()  # (windows,)
        first = ids.row_starts()[:, None] + number * step[:, None]
        last = tf.minimum(first + room[:, None], ids.row_limits()[:, None])
        tokens = tf.ragged.range(first.flat_values, last.flat_values)  # ragged (windows, window)

        count = tf.size(question)
        special = tf.fill((count, 1), self.tokenizer.start_token_id)
        separator = tf.fill((count, 1), self.tokenizer.end_token_id)
        before = [special, tf.gather(asked, question), *[separator] * self.num_separators]
        before = tf.concat(before, axis=1)

        def beside(window, value):
            """Puts a window where its tokens stand, and a value where others do."""
            value = tf.cast(value, window.dtype)
            question = before.with_flat_values(tf.fill(tf.shape(before.flat_values), value))
            return tf.concat([question, window, tf.fill((count, 1), value)], axis=1)

        return Windows(
            token_ids=tf.concat([before, tf.gather(ids.flat_values, tokens), separator], axis=1),
            question=question,
            tokens=beside(tokens, -1),
            starts=beside(tf.gather(starts.flat_values, tokens), 0),
            ends=beside(tf.gather(ends.flat_values, tokens), 0),
            central=beside(_central(tokens, tf.size(ids.flat_values)), False),
        )

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "stride": self.stride}


def _central(tokens, num_tokens):
    """Says in which of its windows a token has the most on its poorer side: each in one alone."""
    length = tokens.row_lengths()  # (windows,)
    window = tokens.value_rowids()  # (all positions,)
    left = tf.ragged.range(length).flat_values
    around = tf.minimum(left, tf.gather(length, window) - 1 - left)
    rank = around * (tokens.nrows() + 1) - window  # of equals the first
    best = tf.math.unsorted_segment_max(rank, tokens.flat_values, num_tokens)
    return tokens.with_flat_values(rank == tf.gather(best, tokens.flat_values))


@keras.saving.register_keras_serializable(package="keras_llm")
class SequenceToSequencePreprocessor(keras_hub.models.Preprocessor):
    """Turns sources and targets into what an encoder-decoder reads and is asked for.

    The source is `tokens [SEP]`. The decoder reads `[CLS] tokens` and is asked, at each position,
    for the token that comes next: `tokens [SEP]`. A batch is padded to its longest text only.

    Args:
        tokenizer: `keras_llm.tokenizers.WordPieceTokenizer` or another with an end and a padding
            token; targets begin with its start token, or the padding token where it has none.
        sequence_length: int, the most tokens of a source, with the end token; the rest of a longer
            text is cut off at its end.
        target_length: int, the same for targets; None: as for sources.
        prefix: str, stands before each source, such as "summarize: ": T5 tells its tasks by it.
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
        >>> preprocess = SequenceToSequencePreprocessor(WordPieceTokenizer(words), 8)
        >>> x, y, weights = preprocess(tf.constant(["good day"]), y=tf.constant(["你好"]))
        >>> x["encoder_token_ids"].numpy().tolist(), x["decoder_token_ids"].numpy().tolist()
        ([[5, 6, 3]], [[2, 7, 8]])
        >>> y.numpy().tolist()
        [[7, 8, 3]]
    """

    def __init__(self, tokenizer, sequence_length=128, target_length=None, prefix="", **kwargs):
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.target_length = sequence_length if target_length is None else target_length
        self.prefix = prefix

    @property
    def start_token_id(self):
        """The token that targets begin with: that of the tokenizer, or padding, as in T5."""
        return getattr(self.tokenizer, "start_token_id", self.tokenizer.pad_token_id)

    def call(self, x, y=None, sample_weight=None):
        """Returns the inputs and, with targets, the tokens asked for and their weights."""
        pad = self.tokenizer.pad_token_id
        source, source_mask = _padded(self.sources(x), pad)
        inputs = {"encoder_token_ids": source, "encoder_padding_mask": source_mask}
        if y is None:
            return inputs

        labels = self.targets(y)  # ragged (batch, None)
        start = tf.fill((labels.nrows(), 1), self.start_token_id)
        read, mask = _padded(tf.concat([start, labels[:, :-1]], axis=1), pad)
        labels, _ = _padded(labels, pad)
        weights = tf.cast(mask, tf.float32)
        if sample_weight is not None:
            weights *= tf.cast(sample_weight, tf.float32)[:, None]
        inputs |= {"decoder_token_ids": read, "decoder_padding_mask": mask}
        return inputs, labels, weights

    def sources(self, texts):
        """Returns prefix, tokens and end token of each source, ragged (batch, None)."""
        texts = tf.convert_to_tensor(texts, tf.string)
        return self._ended(tf.strings.join([self.prefix, texts]), self.sequence_length)

    def targets(self, texts):
        """Returns tokens and end token of each target, ragged (batch, None)."""
        return self._ended(tf.convert_to_tensor(texts, tf.string), self.target_length)

    def _ended(self, texts, length):
        tokens = self.tokenizer(texts)[:, : length - 1]
        end = tf.fill((tokens.nrows(), 1), self.tokenizer.end_token_id)
        return tf.concat([tokens, end], axis=1)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "sequence_length": self.sequence_length,
            "target_length": self.target_length,
            "prefix": self.prefix,
        }


def _padded(rows, pad_token_id):
    """Pads ragged rows to the longest, of 2 at least: ids int32 and a mask, True at real tokens."""
    length = tf.maximum(rows.bounding_shape(axis=1), 2)  # a batch of no texts has a shape too
    token_ids = rows.to_tensor(pad_token_id, shape=tf.stack([-1, length]))
    return token_ids, tf.sequence_mask(rows.row_lengths(), length)


def running_ends(rows, lengths):
    """Adds up lengths along each row: where each thing ends if one follows the other.

    Args:
        rows: ragged (batch, things, ...), which says what stands in which row.
        lengths: int (all things,).

    Returns:
        Tensor of the shape and type of `lengths`.

    Example:
        >>> things = tf.ragged.constant([["a", "b"], [], ["c", "d", "e"]])
        >>> running_ends(things, tf.constant([2, 1, 4, 1, 3])).numpy().tolist()
        [2, 3, 4, 5, 8]
    """
    ends = tf.cumsum(lengths)
    before = tf.gather(tf.concat([tf.zeros((1,), ends.dtype), ends], axis=0), rows.row_starts())
    return ends - tf.gather(before, rows.value_rowids())


WINDOWS_AT_ONCE = 32


def batch_by_batch(function, num_windows, returns, at_once=WINDOWS_AT_ONCE):
    """Calls a function on some windows, then on the next ones, as a graph.

    A long text has thousands of windows; a model that read all at once would want memory for all.

    Args:
        function: of the numbers of some windows, int (some,), to tensors of any length.
        num_windows: int scalar tensor.
        returns: `tf.TensorSpec`, or a structure of them: what the function returns.
        at_once: int, the windows of a call.

    Returns:
        What the function returns, for all windows, one after the other.

    Example:
        >>> squares = batch_by_batch(tf.square, tf.constant(100), tf.TensorSpec([None], tf.int32))
        >>> squares.shape, squares[99].numpy().item()
        (TensorShape([100]), 9801)
    """
    first = tf.range(0, tf.maximum(num_windows, 1), at_once)  # of none: a batch of none
    batches = tf.ragged.range(first, tf.minimum(first + at_once, num_windows))
    of_any_length = tf.nest.map_structure(
        lambda spec: tf.RaggedTensorSpec(spec.shape, spec.dtype, ragged_rank=0), returns
    )
    found = tf.map_fn(function, batches, fn_output_signature=of_any_length)
    return tf.nest.map_structure(lambda rows: rows.values, found)


def by_length(function, inputs, returns, at_once=8):
    """Calls a function on the shortest texts, then on longer ones, as a graph.

    Texts are padded to the longest of those that are read together, and padding takes as long as
    text: beside others of their length there is little of it.

    Args:
        function: of a dict like `inputs` to tensors (some texts, ...).
        inputs: dict of tensors (texts, length), padded behind, with `padding_mask`.
        returns: as in `batch_by_batch`.
        at_once: int, the texts of a call.

    Returns:
        What the function returns, in the order of the texts.

    Example:
        >>> inputs = {"padding_mask": tf.sequence_mask([3, 1, 2])}
        >>> width = lambda some: tf.reduce_sum(tf.cast(some["padding_mask"], "int32") * 0 + 1, 1)
        >>> by_length(width, inputs, tf.TensorSpec([None], tf.int32), at_once=2).numpy().tolist()
        [3, 2, 2]
    """
    lengths = tf.reduce_sum(tf.cast(inputs["padding_mask"], tf.int32), axis=1)  # (texts,)
    order = tf.argsort(lengths)

    def some(places):
        rows = tf.gather(order, places)
        longest = tf.reduce_max(tf.concat([[2], tf.gather(lengths, rows)], axis=0))
        return function({name: tf.gather(x, rows)[:, :longest] for name, x in inputs.items()})

    found = batch_by_batch(some, tf.size(order), returns, at_once)
    return tf.nest.map_structure(lambda rows: tf.gather(rows, tf.argsort(order)), found)


def _chosen(rows, chosen):
    """Keeps the words at which a mask (all words,) is True."""
    places = tf.where(chosen)[:, 0]
    return tf.RaggedTensor.from_value_rowids(
        tf.gather(rows.values, places),
        tf.gather(rows.value_rowids(), places),
        rows.nrows(),
        validate=False,
    )

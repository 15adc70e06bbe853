"""Classification by prompts: a language model fills in the word that says the class.

Notable:

- a pattern makes a cloze question of a text, a verbalizer says which words stand for which class
  ("Exploiting Cloze Questions for Few Shot Text Classification", Schick and Schuetze, 2021): what
  the model learned from plain text answers, without labels and without new weights;
- one pattern serves both kinds of models. A masked model sees a mask at `{label}` and what follows
  it; a causal model reads up to `{label}` and says how probable the words are that may come next
  ("Language Models are Few-Shot Learners", Brown et al., 2020);
- solved examples may stand in the prompt, before the text;
- the model has favourites among the words; `subtract_prior` takes out what it prefers without any
  text ("Calibrate Before Use", Zhao et al., 2021);
- a text that is too long is cut, the pattern never.
"""

import functools

import keras
import tensorflow as tf
from keras import ops

from keras_llm.models.encoder import sequence_output
from keras_llm.models.sizes import check_vocabulary
from keras_llm.tasks.calibration import TemperatureScaling
from keras_llm.tasks.classification import Classifier, check_classes
from keras_llm.tasks.preprocessing import TextClassifierPreprocessor
from keras_llm.tasks.text_task import ReadsTokens, as_strings
from keras_llm.tasks.zero_shot import has_vocabulary


class PromptPreprocessor(TextClassifierPreprocessor):
    """Turns texts into prompts; what a model reads of one and of the words is a subclass."""

    def __init__(
        self,
        tokenizer,
        pattern,
        verbalizer,
        examples=(),
        separator="\n",
        sequence_length=128,
        segments=False,
        **kwargs,
    ):
        super().__init__(tokenizer, list(verbalizer), sequence_length, segments, **kwargs)
        self.pattern = pattern
        self.verbalizer = verbalizer
        self.examples = [tuple(example) for example in examples]
        self.separator = separator

    @functools.cached_property
    def words(self):
        """The tokens of every word, class after class: a list of lists of int."""
        _, space, _ = _cut(self.pattern, "{label}")
        return self._encode([space + word for words in self.verbalizer.values() for word in words])

    @functools.cached_property
    def _parts(self):
        """What stands before the word and after it, and the space before the text.

        Each of the two is a list of strings; where there are two, the text stands between them.
        """
        solved = "".join(self._solved(*example) + self.separator for example in self.examples)
        before, _, after = _cut(solved + self.pattern, "{label}")
        if self.pattern.index("{text}") < self.pattern.index("{label}"):
            start, space, behind = _cut(before, "{text}")
            return (start, behind), (after,), space
        start, space, behind = _cut(after, "{text}")
        return (before,), (start, behind), space

    @functools.cached_property
    def _fixed(self):
        """The tokens of the parts."""
        before, after, _ = self._parts
        tokens = self._encode([*before, *after])
        return tokens[: len(before)], tokens[len(before) :]

    @property
    def capacity(self):
        """The most tokens of a text, int; less than 1 where there is no room for any."""
        fixed = sum(len(part) for side in self._fixed for part in side)
        return self.sequence_length - fixed - self._num_others

    def _solved(self, text, name):
        """Fills in the pattern with an example."""
        filled = self.pattern.replace("{label}", self.verbalizer[name][0])
        return filled.replace("{text}", text.strip())

    def _encode(self, strings):
        with tf.init_scope():  # also where a graph is being made
            return self.tokenizer(tf.constant(strings)).to_list()

    def _sides(self, texts):
        """Returns what precedes the word and what follows it, int32 ragged (batch, None)."""
        *_, space = self._parts
        tokens = self.tokenizer(space + tf.strings.strip(texts))[:, : self.capacity]
        sides = []
        for parts in self._fixed:
            parts = [self._repeated(part, tokens.nrows()) for part in parts]
            sides.append(tf.concat([parts[0], tokens, parts[1]], 1) if parts[1:] else parts[0])
        return sides

    @staticmethod
    def _repeated(tokens, rows):
        tokens = tf.constant([tokens], tf.int32, (1, len(tokens)))
        return tf.RaggedTensor.from_tensor(tf.tile(tokens, [rows, 1]))

    def get_config(self):
        """Returns the constructor's arguments."""
        config = super().get_config()
        del config["classes"], config["multi_label"]
        return {
            **config,
            "pattern": self.pattern,
            "verbalizer": self.verbalizer,
            "examples": self.examples,
            "separator": self.separator,
        }


@keras.saving.register_keras_serializable(package="keras_llm")
class MaskedPromptPreprocessor(PromptPreprocessor):
    """Turns texts into prompts with one mask, such as "It was [MASK], a fine film".

    Args:
        tokenizer: as in `EncoderPreprocessor`.
        pattern: str with `{text}` and `{label}`, each once.
        verbalizer: dict from the name of a class to the list of the words that stand for it.
        examples: list of pairs (text, name of its class), which stand before every text, the label
            as the first of its words.
        separator: str, what stands after each example.
        sequence_length: int, the most tokens of a prompt with the word; of a text that makes it
            longer the rest is cut off.
        segments: bool, whether the model reads `segment_ids`.
        **kwargs: `name` of `keras.layers.Layer`.

    Call arguments:
        x: string tensor (batch,).
        y: string tensor (batch,) of names of classes, or None.
        sample_weight: float tensor (batch,), or None.

    Returns:
        The dict of `EncoderPreprocessor`, with `mask_positions` int32 (batch, 1) and `word_ids`
        int32 (batch, words), the token of each word of the verbalizer; and where given the numbers
        of the classes int32 (batch,) and the weights.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> words = ["it", "was", "good", "bad", "fine"]
        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
        >>> verbalizer = {"negative": ["bad"], "positive": ["good"]}
        >>> preprocess = MaskedPromptPreprocessor(tokenizer, "{text} It was {label}", verbalizer)
        >>> x = preprocess(tf.constant(["fine fine", "fine"]))
        >>> x["token_ids"].numpy().tolist(), x["mask_positions"].numpy().tolist()
        ([[2, 9, 9, 5, 6, 4, 3], [2, 9, 5, 6, 4, 3, 0]], [[5], [4]])
        >>> x["word_ids"].numpy().tolist()
        [[8, 7], [8, 7]]
    """

    _num_others = 3  # the first, the mask and the last

    def check(self):
        """Raises ValueError where a word is not one token, or no text has room."""
        words = [word for words in self.verbalizer.values() for word in words]
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        for word, tokens in zip(words, self.words, strict=True):
            if len(tokens) != 1 or tokens[0] == unknown:
                names = [self.tokenizer.id_to_token(token) for token in tokens]
                raise ValueError(
                    f"The word {word!r} is the tokens {names}, but a mask stands for one known "
                    "token. Choose another word, or a causal model."
                )
        _check_capacity(self)

    def _inputs(self, texts):
        before, after = self._sides(texts)
        first, mask, last = (
            self._repeated([token], before.nrows())
            for token in (
                self.tokenizer.start_token_id,
                self.tokenizer.mask_token_id,
                self.tokenizer.end_token_id,
            )
        )
        positions = 1 + before.row_lengths()[:, None]  # (batch, 1)
        word_ids = tf.constant([word[0] for word in self.words])
        return {
            **self.pack(tf.concat([first, before, mask, after, last], axis=1)),
            "mask_positions": tf.cast(positions, tf.int32),
            "word_ids": tf.tile(word_ids[None], [before.nrows(), 1]),
        }


@keras.saving.register_keras_serializable(package="keras_llm")
class CausalPromptPreprocessor(PromptPreprocessor):
    """Turns texts into prompts that end where a word is asked for, and says which words may follow.

    A word of several tokens needs a row in which all but the last stand after the prompt. Words
    that begin alike share it; words of one token share the prompt itself.

    Args:
        tokenizer: as in `EncoderPreprocessor`.
        pattern: str with `{text}` and, at its end, `{label}`, each once.
        verbalizer: as in `MaskedPromptPreprocessor`; words may be several tokens.
        examples: as in `MaskedPromptPreprocessor`.
        separator: as in `MaskedPromptPreprocessor`.
        sequence_length: as in `MaskedPromptPreprocessor`.
        segments: bool, False: causal models read no `segment_ids` here.
        **kwargs: `name` of `keras.layers.Layer`.

    Call arguments:
        x: string tensor (batch,).
        y: string tensor (batch,) of names of classes, or None.
        sample_weight: float tensor (batch,), or None.

    Returns:
        The dict of `token_ids` int32 and `padding_mask` bool, each (batch, rows, length), and of
        `word_ids` int32, the tokens of the words, `word_mask` bool, True at tokens, and
        `word_positions` int32, at which token of the rows, laid end to end, each is guessed; these
        are (batch, words, tokens). Where given also the numbers of the classes int32 (batch,) and
        the weights.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer.train(["good film", "bad film"] * 9, 40)
        >>> verbalizer = {"negative": ["bad"], "positive": ["good"]}
        >>> preprocess = CausalPromptPreprocessor(tokenizer, "{text}: {label}", verbalizer)
        >>> x = preprocess(tf.constant(["film", "film film"]))
        >>> x["token_ids"].shape, x["word_positions"].numpy().tolist()
        (TensorShape([2, 1, 4]), [[[2], [2]], [[3], [3]]])
    """

    @property
    def _num_others(self):
        return 1 + max(map(len, self.words))  # the first, and the longest word

    def check(self):
        """Raises ValueError where a word has no tokens, or no text has room."""
        words = [word for words in self.verbalizer.values() for word in words]
        for word, tokens in zip(words, self.words, strict=True):
            if not tokens:
                raise ValueError(f"Of the word {word!r} the tokenizer leaves no token.")
        _check_capacity(self)

    def _inputs(self, texts):
        prompt, _ = self._sides(texts)
        batch = tf.cast(prompt.nrows(), tf.int32)
        prompt = tf.concat([self._repeated([self.tokenizer.start_token_id], batch), prompt], axis=1)
        beginnings = sorted({tuple(word[:-1]) for word in self.words})
        rows = [tf.concat([prompt, self._repeated(list(b), batch)], axis=1) for b in beginnings]
        rows = self.pack(tf.stack(rows, axis=1).merge_dims(0, 1))  # each (batch * rows, length)
        length = tf.shape(rows["token_ids"])[1]

        ids = tf.ragged.constant(self.words, tf.int32)  # (words, tokens)
        row = tf.constant([beginnings.index(tuple(word[:-1])) for word in self.words])
        place = tf.range(ids.bounding_shape()[1], dtype=tf.int32)
        last = tf.cast(prompt.row_lengths(), tf.int32) - 1  # (batch,), of the prompt
        positions = last[:, None, None] + (row * length)[:, None] + place  # (batch, words, tokens)
        mask = tf.broadcast_to(tf.sequence_mask(ids.row_lengths()), tf.shape(positions))
        return {
            **{
                name: tf.reshape(values, (batch, len(beginnings), length))
                for name, values in rows.items()
            },
            "word_positions": tf.where(mask, positions, 0),
            "word_ids": tf.broadcast_to(ids.to_tensor(), tf.shape(positions)),
            "word_mask": mask,
        }


@keras.saving.register_keras_serializable(package="keras_llm")
class Verbalizer(keras.layers.Layer):
    r"""Adds up the words of each class, and takes out what the model prefers without a text.

    The logit of a class is $\log \sum_w p(w) - \log p_0$, with the sum over its words and a prior
    $p_0$ that is a weight but not trained; 1 for all classes until it is set ("Calibrate Before
    Use", Zhao et al., 2021, section 5).

    Args:
        num_words: list of int, how many words each class has.
        **kwargs: `name`, `dtype` of `keras.layers.Layer`.

    Call arguments:
        log_p: float (batch, words), logarithms of the probabilities of the words, class after
            class.

    Returns:
        Float (batch, classes).

    Example:
        >>> layer = Verbalizer([2, 1])
        >>> logits = layer(ops.log([[0.1, 0.2, 0.4]]))
        >>> print(ops.exp(logits).numpy().round(3))
        [[0.3 0.4]]
    """

    def __init__(self, num_words, **kwargs):
        super().__init__(**kwargs)
        self.num_words = list(num_words)

    def build(self, log_p_shape):
        """Creates the prior."""
        self.log_prior = self.add_weight(
            shape=(len(self.num_words),), initializer="zeros", trainable=False, name="log_prior"
        )

    def call(self, log_p):
        """Returns the logits of the classes."""
        classes, end = [], 0
        for number in self.num_words:
            start, end = end, end + number
            classes.append(ops.logsumexp(log_p[:, start:end], axis=1))
        return ops.stack(classes, axis=1) - self.log_prior

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "num_words": self.num_words}


class MaskedWords(keras.layers.Layer):
    """Finds how probable words are where the mask stands.

    Args:
        language_model: a masked model such as `keras_llm.models.RobertaMaskedLM`.
        **kwargs: `name`, `dtype` of `keras.layers.Layer`.

    Call arguments:
        inputs: the dict of `MaskedPromptPreprocessor`.

    Returns:
        float32 (batch, words), logarithms.
    """

    def __init__(self, language_model, **kwargs):
        super().__init__(**kwargs)
        self.backbone = language_model.backbone
        self.head = language_model.masked_lm_head

    def call(self, inputs, training=None):
        """Returns the logarithms of the probabilities."""
        x = self.backbone({name: inputs[name] for name in self.backbone.input}, training=training)
        logits = self.head(sequence_output(x), inputs["mask_positions"])  # (batch, 1, vocabulary)
        return ops.take_along_axis(ops.log_softmax(logits[:, 0]), inputs["word_ids"], axis=1)


class CausalWords(keras.layers.Layer):
    """Finds how probable words are as what follows a prompt.

    Args:
        language_model: a causal model such as `keras_llm.models.GPT2CausalLM`.
        **kwargs: `name`, `dtype` of `keras.layers.Layer`.

    Call arguments:
        inputs: the dict of `CausalPromptPreprocessor`.

    Returns:
        float32 (batch, words), logarithms.
    """

    def __init__(self, language_model, **kwargs):
        super().__init__(**kwargs)
        self.language_model = language_model

    def call(self, inputs, training=None):
        """Returns the logarithms of the probabilities."""
        batch, rows, length = ops.shape(inputs["token_ids"])
        words, tokens = ops.shape(inputs["word_ids"])[1:]
        x = {name: inputs[name] for name in ("token_ids", "padding_mask")}
        x = {name: ops.reshape(values, (batch * rows, length)) for name, values in x.items()}
        x = self.language_model.backbone(x, training=training)  # (batch * rows, length, hidden_dim)

        x = ops.reshape(x, (batch, rows * length, x.shape[-1]))
        positions = ops.reshape(inputs["word_positions"], (batch, words * tokens, 1))
        logits = self.language_model.logits(ops.take_along_axis(x, positions, axis=1))
        logits = ops.reshape(logits, (batch, words, tokens, logits.shape[-1]))
        log_p = -ops.sparse_categorical_crossentropy(inputs["word_ids"], logits, from_logits=True)
        return ops.sum(ops.where(inputs["word_mask"], log_p, 0.0), axis=-1)


@keras.saving.register_keras_serializable(package="keras_llm")
class PromptClassifier(ReadsTokens, Classifier):
    """Names the class whose words a language model finds most probable in a pattern.

    "Exploiting Cloze Questions" (Schick and Schuetze, 2021), section 3.1, for masked models; with
    causal ones "Language Models are Few-Shot Learners" (Brown et al., 2020), section 2. It answers
    without labels, takes a few as `examples` into the prompt, and `fit` trains all weights through
    the pattern, by cross-entropy over the words of the classes: what fine-tuning learns from few
    labels better than a new layer.

    A masked model judges by one token, so each word must be one. Of a causal model a word may be
    several tokens, whose probabilities are multiplied; `subtract_prior` makes up for long words.

    Args:
        language_model: a masked model, `BertForPretraining`, `RobertaMaskedLM` or
            `DistilBertMaskedLM`, or a causal one, `GPT2CausalLM` or `LlamaCausalLM`, each with its
            backbone of `keras_llm.models` or of KerasHub.
        tokenizer: the tokenizer that the model was pretrained with.
        pattern: str with `{text}` and `{label}`, each once, such as `"{text} It was {label}."`. For
            a causal model it ends with `{label}`.
        verbalizer: dict from the name of a class to the word that stands for it, or to a list of
            several, whose probabilities are added up.
        examples: list of pairs (text, name of its class), solved in the prompt before each text.
        separator: str, what stands after each of them.
        sequence_length: int, the most tokens of a prompt. By default what the backbone takes, 128
            at most without examples.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Raises:
        ValueError: the pattern lacks `{text}` or `{label}`, or has it twice; for a causal model
            something follows `{label}`; a word is several tokens for a masked model, or stands for
            two classes; pattern and examples leave no room for a text; an example of another class;
            fewer than two classes; `sequence_length` is more than the backbone has positions; the
            tokenizer has more tokens than the backbone.
        TypeError: something else than strings, or a model that is neither masked nor causal.

    Example:
        >>> from keras_llm.models import DistilBertBackbone, DistilBertMaskedLM
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> keras.utils.set_random_seed(0)
        >>> texts, labels = ["你好，世界！", "再见，世界！"] * 8, ["greeting", "farewell"] * 8
        >>> tokenizer = WordPieceTokenizer.train([*texts, "来去"], vocabulary_size=26)
        >>> backbone = DistilBertBackbone(26, 1, 2, 32, 64, max_sequence_length=16)
        >>> verbalizer = {"greeting": "来", "farewell": "去"}
        >>> language_model = DistilBertMaskedLM(backbone)
        >>> model = PromptClassifier(language_model, tokenizer, "{label}：{text}", verbalizer)
        >>> model.compile(keras.optimizers.Adam(1e-2))
        >>> history = model.fit(texts, labels, batch_size=4, epochs=4, verbose=0)
        >>> model.predict(["你好！"], verbose=0)["label"].tolist()
        ['greeting']
    """

    def __init__(
        self,
        language_model,
        tokenizer,
        pattern,
        verbalizer,
        examples=(),
        separator="\n",
        sequence_length=None,
        **kwargs,
    ):
        is_masked = hasattr(language_model, "masked_lm_head")
        if not (is_masked or hasattr(language_model, "logits")):
            raise TypeError(
                f"{type(language_model).__name__} is neither a masked nor a causal language model "
                "of keras_llm.models, such as RobertaMaskedLM or GPT2CausalLM."
            )
        backbone = language_model.backbone
        limit = getattr(backbone, "max_sequence_length", None) or 1024
        sequence_length = sequence_length or (limit if examples else min(limit, 128))
        if sequence_length > limit:
            raise ValueError(
                f"sequence_length={sequence_length} is more than the backbone's {limit} positions."
            )
        verbalizer = {
            name: as_strings([words] if isinstance(words, str) else words, f"{name} words")
            for name, words in verbalizer.items()
        }
        examples = [tuple(example) for example in examples]
        check_vocabulary(tokenizer, backbone)
        check_classes(verbalizer, multi_label=False)
        _check_words(verbalizer)
        _check_pattern(pattern, is_masked)
        _check_examples(examples, verbalizer)

        # === Layers ===
        # The same weights alone: no metrics of its own, no preprocessor, and of BERT's two heads
        # only the one that is asked learns.
        self.language_model = type(language_model)(backbone, compile=False)
        self.language_model.set_weights(language_model.get_weights())
        if hasattr(language_model, "next_sentence_head"):
            self.language_model.next_sentence_head.trainable = False
        self.backbone = backbone
        preprocessor = MaskedPromptPreprocessor if is_masked else CausalPromptPreprocessor
        self.preprocessor = preprocessor(
            tokenizer,
            pattern,
            verbalizer,
            examples,
            separator,
            sequence_length,
            segments=is_masked and "segment_ids" in backbone.input,
        )
        if has_vocabulary(tokenizer):  # else a file is read, which was checked
            self.preprocessor.check()
        words = MaskedWords if is_masked else CausalWords
        self.words = words(self.language_model, dtype=backbone.dtype_policy, name="words")
        num_words = [len(words) for words in verbalizer.values()]
        self.verbalizer = Verbalizer(num_words, dtype="float32", name="verbalizer")
        self.temperature_scaling = TemperatureScaling(dtype="float32", name="temperature_scaling")

        # === Functional Model ===
        if is_masked:
            inputs = {
                **backbone.input,
                "mask_positions": keras.Input((1,), dtype="int32", name="mask_positions"),
                "word_ids": keras.Input((None,), dtype="int32", name="word_ids"),
            }
        else:
            types = {"token_ids": "int32", "padding_mask": "bool"}
            types |= {"word_positions": "int32", "word_ids": "int32", "word_mask": "bool"}
            inputs = {
                name: keras.Input((None, None), dtype=dtype, name=name)
                for name, dtype in types.items()
            }
        logits = self.verbalizer(self.words(inputs))  # (batch, classes)
        super().__init__(inputs=inputs, outputs=self.temperature_scaling(logits), **kwargs)

        # === Config ===
        self.classes = list(verbalizer)
        self.sequence_length = sequence_length

    @classmethod
    def from_config(cls, config):
        """Builds the model from `get_config`'s result."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("language_model", "tokenizer")
        }
        return cls(**{**config, **parts})

    def get_config(self):
        """Returns the constructor's arguments."""
        preprocessor = self.preprocessor
        return {
            "language_model": keras.saving.serialize_keras_object(self.language_model),
            "tokenizer": keras.saving.serialize_keras_object(preprocessor.tokenizer),
            "pattern": preprocessor.pattern,
            "verbalizer": {name: list(words) for name, words in preprocessor.verbalizer.items()},
            "examples": [list(example) for example in preprocessor.examples],
            "separator": preprocessor.separator,
            "sequence_length": self.sequence_length,
            "name": self.name,
        }

    def subtract_prior(self, texts=("", "N/A"), batch_size=32):
        r"""Takes out what the model prefers whatever the text is.

        "Calibrate Before Use" (Zhao et al., 2021), section 5: the probabilities of the classes are
        divided by those of texts without content. Where these are unlabelled texts of the data
        instead, no class is preferred on their average ("Batch Calibration", Zhou et al., 2024).
        The prior is a weight: it is saved and exported.

        Args:
            texts: list of str.
            batch_size: int, texts a step.

        Returns:
            A dict from the names of the classes to their prior probabilities.

        Raises:
            ValueError: there are no texts.
            TypeError: a single string, or a list of something else than strings.
        """
        log_prior = self.verbalizer.log_prior
        log_prior.assign(ops.zeros_like(log_prior))
        logits = self._logits(texts, batch_size, verbose=0) * self.temperature_scaling.temperature
        prior = ops.mean(ops.softmax(logits), axis=0)  # (classes,)
        log_prior.assign(ops.log(prior))
        return dict(zip(self.classes, ops.convert_to_numpy(prior).tolist(), strict=True))


def _cut(string, slot):
    """Splits a string at the last `slot`: what stands before, the space before it, what follows.

    A space before a text or a word belongs to it: to byte-level tokenizers " great" is one token.
    """
    before, _, after = string.rpartition(slot)
    start = before.rstrip()
    return start, before[len(start) :], after


def _check_pattern(pattern, is_masked):
    for slot in ("{text}", "{label}"):
        if pattern.count(slot) != 1:
            raise ValueError(
                f"The pattern {pattern!r} has {slot} {pattern.count(slot)} times, not once. Put "
                "{text} where the text stands and {label} where the word that says its class does."
            )
    if not is_masked and not pattern.rstrip().endswith("{label}"):
        raise ValueError(
            f"A causal model has read only what stands before {{label}}: end the pattern "
            f"{pattern!r} with it."
        )


def _check_words(verbalizer):
    words = [word for words in verbalizer.values() for word in words]
    twice = sorted({word for word in words if words.count(word) > 1})
    if twice:
        raise ValueError(f"The words {twice} stand in the verbalizer more than once.")


def _check_examples(examples, verbalizer):
    for text, name in examples:
        as_strings([text, name], "examples")
        if name not in verbalizer:
            raise ValueError(f"An example has the label {name!r}; classes are {list(verbalizer)}.")


def _check_capacity(preprocessor):
    if preprocessor.capacity < 1:
        raise ValueError(
            f"Pattern and examples take {1 - preprocessor.capacity} tokens too many of "
            f"sequence_length={preprocessor.sequence_length}: no token of a text has room. Shorten "
            "them, or choose a longer sequence_length if the backbone has the positions."
        )

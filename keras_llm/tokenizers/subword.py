"""What all tokenizers here share: strings in, ids out, a vocabulary, special tokens, files.

Notable:

- a tokenizer is a KerasHub tokenizer, hence a Keras layer, and does its work in TensorFlow ops: the
  same ops run eagerly, in tf.data and in an exported graph, so what is trained on is what is
  served;
- special tokens, such as `[MASK]` or `</s>`, are put around and into ids by preprocessors and
  objectives. Spelled out in a text they are plain text: who writes "[MASK]" cannot mask;
- a special token is had by name, `pad_token` and `pad_token_id`, and by several names where models
  give it several roles: the token that starts a text is BERT's `cls_token`.
"""

import contextlib
import hashlib
import json
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import keras
import keras_hub
import numpy as np
import tensorflow as tf
import tensorflow_text
from tensorflow_text.python.ops.sentencepiece_tokenizer import gen_sentencepiece_tokenizer

from keras_llm.storage import whole_file

CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILE = "tokenizer.json"
NO_TEXT = "The corpus holds no text to learn a vocabulary from. Check its path or split."
# A table of replacements for SentencePiece's normalizer that has none. Without a table the engine
# writes a note to stderr.
NO_REPLACEMENTS = struct.pack("<I", 1024) + bytes(1025)

# A name that a model asks for, and the one that stands for it where a tokenizer has no such token.
STAND_INS = {
    "start_token": "cls_token",
    "cls_token": "start_token",
    "end_token": "sep_token",
    "sep_token": "end_token",
    "pad_token": "end_token",
}

# The names of `transformers` for special tokens.
HUGGING_FACE_NAMES = {
    "start_token": "bos_token",
    "end_token": "eos_token",
    "pad_token": "pad_token",
    "unk_token": "unk_token",
    "cls_token": "cls_token",
    "sep_token": "sep_token",
    "mask_token": "mask_token",
}


class Offsets(NamedTuple):
    """Tokens and where they stand in their texts.

    Args:
        ids: int32 ragged (texts, None).
        starts: int32 ragged (texts, None), the character of the text at which a token starts.
        ends: int32 ragged (texts, None), the character before which it ends.
    """

    ids: tf.RaggedTensor
    starts: tf.RaggedTensor
    ends: tf.RaggedTensor


class SubwordTokenizer(keras_hub.tokenizers.Tokenizer):
    """Base of the tokenizers: call it on strings, eagerly or in a graph.

    A subclass gives `_tokenize`, string tensor (texts,) to ragged ids (texts, None), `_detokenize`,
    its inverse, `_continues`, and `_portable_engines`, the attributes that `portable` sets and to
    what; and it sets its tokens with `_set_tokens`.

    Args:
        special_tokens: dict from names, such as "pad_token", to tokens.
        **kwargs: `name` and other arguments of `keras.layers.Layer`.
    """

    def __init__(self, special_tokens: Mapping[str, str], **kwargs):
        super().__init__(dtype="int32", **kwargs)
        unknown = set(special_tokens) - set(HUGGING_FACE_NAMES)
        if unknown:
            raise ValueError(
                f"There is no role {', '.join(sorted(unknown))} for a special token; there are "
                f"{', '.join(HUGGING_FACE_NAMES)}."
            )
        named = dict(special_tokens)
        for name, other in STAND_INS.items():
            if other in named:
                named.setdefault(name, named[other])
        for name, token in named.items():
            self._add_special_token(token, name)
        self.vocabulary = None

    # === Text to ids ===

    def tokenize(self, inputs) -> tf.Tensor | tf.RaggedTensor:
        """Turns strings into ids, eagerly or in a graph.

        Args:
            inputs: string, or (nested) list or tensor of strings, UTF-8, of shape `(...)`.

        Returns:
            int32 ids of shape `(..., None)`, ragged; a plain tensor `(None,)` for a single string.

        Raises:
            TypeError: the inputs are not strings.

        Example:
            >>> from keras_llm.tokenizers import WordPieceTokenizer
            >>> specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
            >>> WordPieceTokenizer([*specials, "cat"]).tokenize("A cat")
            <tf.Tensor: shape=(2,), dtype=int32, numpy=array([1, 5], dtype=int32)>
        """
        self._check_vocabulary()
        text = inputs if tf.is_tensor(inputs) else _string_tensor(inputs)
        if text.dtype != tf.string:
            raise TypeError(f"A tokenizer takes strings; these inputs are {text.dtype.name}.")
        if text.shape.rank == 0:
            return self._tokenize(text[tf.newaxis])[0]
        if text.shape.rank == 1:
            return self._tokenize(text)
        if not isinstance(text, tf.RaggedTensor):
            text = tf.RaggedTensor.from_tensor(text, ragged_rank=text.shape.rank - 1)
        return text.with_flat_values(self._tokenize(text.flat_values))

    def tokenize_with_offsets(self, inputs) -> Offsets:
        """Turns texts into ids and says where each token stands in its text.

        Args:
            inputs: list or tensor of strings, UTF-8, of shape `(texts,)`.

        Returns:
            `Offsets`: ids as `tokenize` gives them, and the characters at which each token starts
            and before which it ends, counted in the text as it is, before any normalization. The
            space that a byte-level token may begin with is left out.

        Raises:
            NotImplementedError: this kind of tokenizer cannot say.

        Example:
            >>> from keras_llm.tokenizers import WordPieceTokenizer
            >>> specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
            >>> tokenizer = WordPieceTokenizer([*specials, "cafe", "##s", "."])
            >>> ids, starts, ends = tokenizer.tokenize_with_offsets(["  Cafés."])
            >>> ids.to_list(), starts.to_list(), ends.to_list()
            ([[5, 6, 7]], [[2, 6, 7]], [[6, 7, 8]])
        """
        self._check_vocabulary()
        text = inputs if tf.is_tensor(inputs) else tf.convert_to_tensor(inputs, tf.string)
        return self._tokenize_with_offsets(text)

    def _tokenize_with_offsets(self, text: tf.Tensor) -> Offsets:
        raise NotImplementedError(
            f"{type(self).__name__} does not say where its tokens stand in a text. Use a "
            "WordPieceTokenizer or a BytePairTokenizer."
        )

    def call(self, inputs):
        """The same as `tokenize`."""
        return self.tokenize(inputs)

    def compute_output_spec(self, inputs) -> keras.KerasTensor:
        """Says the output's shape and type; Keras asks before it has read the vocabulary."""
        return keras.KerasTensor((*inputs.shape, None), dtype="int32", ragged=True)

    def encode(self, text: str) -> list[int]:
        """Turns one text into ids, without special tokens.

        Args:
            text: str.

        Returns:
            List of ids.

        Example:
            >>> from keras_llm.tokenizers import WordPieceTokenizer
            >>> specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
            >>> WordPieceTokenizer([*specials, "cat"]).encode("Cat?")
            [5, 1]
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Turns many texts into ids at once, which is much faster than one by one.

        Args:
            texts: list of str.

        Returns:
            A list of ids for each text.

        Example:
            >>> from keras_llm.tokenizers import WordPieceTokenizer
            >>> specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
            >>> WordPieceTokenizer([*specials, "cat"]).encode_batch(["cat", ""])
            [[5], []]
        """
        if len(texts) == 0:
            return []
        rows = self.tokenize(tf.constant([utf8(text) for text in texts]))
        ids, bounds = rows.values.numpy().tolist(), rows.row_splits.numpy().tolist()
        return [ids[start:end] for start, end in pairwise(bounds)]

    # === Ids to text ===

    def decode(self, ids: Iterable[int]) -> str:
        """Writes the ids of one text as text, without its special tokens.

        Args:
            ids: ids of one text.

        Returns:
            The text. An unknown token is shown, the other special tokens are left out.

        Example:
            >>> from keras_llm.tokenizers import BytePairTokenizer
            >>> tokenizer = BytePairTokenizer.train(["low lower"] * 2, 260)
            >>> tokenizer.decode([*tokenizer.encode("lower"), tokenizer.end_token_id])
            'lower'
        """
        return self.detokenize(np.array([int(i) for i in ids], "int32"))

    def detokenize(self, inputs):
        """Writes ids as texts: strings of Python eagerly, a string tensor in a graph.

        Args:
            inputs: ids, a list of lists or a ragged or dense tensor of shape `(..., None)`.

        Returns:
            Eagerly a list of texts, or a text for the ids of one; in a graph (`tf.function`,
            `tf.data.Dataset.map`, an export) a string tensor of shape `(...)`.

        Example:
            >>> from keras_llm.tokenizers import BytePairTokenizer
            >>> tokenizer = BytePairTokenizer.train(["low lower"] * 2, 260)
            >>> tokenizer.detokenize(tokenizer(["low", "lower low"]))
            ['low', 'lower low']
        """
        self._check_vocabulary()
        ids = tf.ragged.constant(inputs, tf.int32) if isinstance(inputs, list) else inputs
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.convert_to_tensor(ids)
        texts = self._detokenize(tf.cast(ids, tf.int32))
        return _strings(texts) if tf.executing_eagerly() else texts

    # === Portable graphs ===

    @contextlib.contextmanager
    def portable(self):
        """Works with TensorFlow's core ops alone for as long as the context lasts, slower.

        A graph that is traced within it loads where TensorFlow Text is not. The ids are the same.

        Yields:
            The tokenizer.

        Raises:
            ValueError: a SentencePiece model of a kind that `portable.MostProbable` does not know.

        Example:
            >>> from keras_llm.tokenizers import WordPieceTokenizer
            >>> specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
            >>> tokenizer = WordPieceTokenizer([*specials, "cafe", "##s"])
            >>> with tokenizer.portable():
            ...     tokenizer.encode("Cafés")
            [5, 6]
        """
        self._check_vocabulary()
        with tf.init_scope():  # tables, never part of a caller's graph
            engines = self._portable_engines()
        usual = {name: getattr(self, name) for name in engines}
        try:
            self._replace(engines)
            yield self
        finally:
            self._replace(usual)

    def _replace(self, attributes):
        for name, value in attributes.items():
            delattr(
                self, name
            )  # or the layer, and an export of it, would keep the old one's tables
            setattr(self, name, value)

    # === Vocabulary ===

    def get_vocabulary(self) -> list[str]:
        """Returns the tokens in the order of their ids."""
        self._check_vocabulary()
        return list(self.vocabulary)

    def vocabulary_size(self) -> int:
        """Returns the number of tokens."""
        self._check_vocabulary()
        return len(self.vocabulary)

    def id_to_token(self, id: int) -> str:
        """Returns the token of an id; `ValueError` when there is none."""
        self._check_vocabulary()
        if not 0 <= id < len(self.vocabulary):
            raise ValueError(
                f"There is no token with id {id}: ids go from 0 to {len(self.vocabulary) - 1}."
            )
        return self.vocabulary[id]

    def token_to_id(self, token: str) -> int:
        """Returns the id of a token; `ValueError` when it is not in the vocabulary."""
        self._check_vocabulary()
        if token not in self._ids:
            raise ValueError(f"The token {token!r} is not in the vocabulary.")
        return self._ids[token]

    def continues_word(self) -> list[bool]:
        """Says of each token whether it goes on with the word of the token before it.

        Returns:
            A list of bool in the order of the ids. A special token goes on with nothing.

        Example:
            >>> from keras_llm.tokenizers import WordPieceTokenizer
            >>> specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
            >>> WordPieceTokenizer([*specials, "un", "##do"]).continues_word()
            [False, False, False, False, False, False, True]
        """
        special = set(self.special_token_ids)
        return [
            id not in special and self._continues(token)
            for id, token in enumerate(self.get_vocabulary())
        ]

    def _set_tokens(self, vocabulary: tuple[str, ...]) -> None:
        """Takes the tokens in the order of their ids; each must be there once, special ones too."""
        ids = {token: id for id, token in enumerate(vocabulary)}
        specials = dict.fromkeys(getattr(self, name) for name in self._special_token_attrs)
        missing = [token for token in specials if token not in ids]
        if missing:
            raise ValueError(
                f"The vocabulary lacks the special tokens {', '.join(missing)}. Add each as a "
                "token of its own."
            )
        self.vocabulary = vocabulary
        self._ids = ids
        self._update_special_token_ids()

    def _hidden_ids(self) -> set[int]:
        """The special tokens that a decoded text does not show: all but the unknown token."""
        names = [name for name in self._special_token_attrs if name != "unk_token"]
        return {getattr(self, f"{name}_id") for name in names}

    def _check_vocabulary(self):
        if self.vocabulary is None:
            name = type(self).__name__
            raise ValueError(
                f"This tokenizer has no vocabulary yet. Give it one, `{name}(...)`, or learn one "
                f"from text with `{name}.train(corpus)`."
            )

    # === Files ===

    def save(self, directory: str | Path) -> None:
        """Writes the tokenizer into a folder, in files that `transformers` reads too.

        Args:
            directory: str or Path, made when missing.

        Raises:
            NotADirectoryError: a file is in the way.

        Example:
            >>> import tempfile
            >>> from keras_llm.tokenizers import BytePairTokenizer
            >>> directory = tempfile.mkdtemp()
            >>> BytePairTokenizer.train(["low lower"] * 2, 260).save(directory)
            >>> BytePairTokenizer.load(directory).decode([76, 79, 87])
            'low'
        """
        directory = Path(directory)
        if directory.exists() and not directory.is_dir():
            raise NotADirectoryError(
                f"{directory} is a file. A tokenizer is saved as a folder: choose another name."
            )
        directory.mkdir(parents=True, exist_ok=True)
        self.save_assets(directory)
        names = {
            theirs: getattr(self, name)
            for name, theirs in HUGGING_FACE_NAMES.items()
            if name in self._special_token_attrs
        }
        write_json(directory / CONFIG_FILE, {**self._hugging_face_config(), **names})

    def get_config(self) -> dict:
        """Returns the arguments but the vocabulary, which is saved as an asset."""
        config = super().get_config()
        del config["dtype"]  # always int32
        return config


# === Engine ===


class SentencepieceEngine(tensorflow_text.SentencepieceTokenizer):
    """TensorFlow Text's engine for a SentencePiece model, which outlives the setting of a seed.

    There the model belongs to the op that read it, and `tf.random.set_seed` drops all ops that were
    run. A model with a name of its own belongs to none.

    Args:
        model: bytes, the serialized model.
    """

    def __init__(self, model: bytes):
        super().__init__(model)
        self._model_resource = _NamedModel(model)


class _NamedModel(tf.saved_model.experimental.TrackableResource):
    def __init__(self, model: bytes):
        super().__init__()
        self._model = model
        _ = self.resource_handle  # asked for, it is created

    def _create_resource(self):
        name = hashlib.sha256(self._model).hexdigest()
        return gen_sentencepiece_tokenizer.sentencepiece_op(model=self._model, shared_name=name)


# === Offsets ===


def character_offsets(
    lengths: tf.RaggedTensor, ids: tf.RaggedTensor, starts: tf.RaggedTensor, ends: tf.RaggedTensor
) -> Offsets:
    """Counts in characters of the text what an engine counts in bytes of what it was given.

    Args:
        lengths: int32 ragged (texts, characters), how many bytes each character of the text gave;
            0 for one that was dropped.
        ids: int32 ragged (texts, tokens).
        starts: int ragged (texts, tokens), the byte at which a token starts, one at least before
            its end.
        ends: int ragged (texts, tokens), the byte before which it ends.

    Returns:
        `Offsets`. A token that is a part of a character stands for all of it. Dropped characters
        after a token, such as accents, go with it.
    """
    # All texts are laid end to end: one search finds the character of every byte.
    character_ends = tf.cumsum(lengths.flat_values)  # (all characters,)
    first_character = tf.cast(lengths.row_starts(), tf.int32)  # (texts,)
    last_character = tf.cast(lengths.row_limits(), tf.int32)
    first_byte = tf.gather(tf.concat([[0], character_ends], axis=0), first_character)
    text = ids.value_rowids()  # (all tokens,)

    def character_of(byte):
        byte = tf.cast(byte, tf.int32) + tf.gather(first_byte, text)
        return tf.searchsorted(character_ends, byte, side="right")  # the first that ends after it

    start = character_of(starts.flat_values)
    end = tf.minimum(character_of(ends.flat_values), tf.gather(last_character, text))
    end = tf.maximum(end, character_of(ends.flat_values - 1) + 1)
    start, end = (place - tf.gather(first_character, text) for place in (start, end))
    return Offsets(ids, ids.with_flat_values(start), ids.with_flat_values(end))


# === Training ===


def training_texts(corpus: Iterable[str]) -> Iterator[str]:
    """Streams the texts of a `Corpus` or an iterable; refuses a single string, and no text."""
    if isinstance(corpus, str):
        raise TypeError(
            "`corpus` is a single string, whose characters would each be taken for a text. "
            "Pass a list of texts: `train([text])`."
        )
    empty = True
    for text in corpus.texts() if hasattr(corpus, "texts") else corpus:
        text = utf8(text).decode("utf-8", "replace")  # lone surrogates: U+FFFD
        empty = empty and not text.strip()
        yield text
    if empty:
        raise ValueError(NO_TEXT)


def warn_if_small(size: int, vocabulary_size: int) -> None:
    """Warns where a text gave fewer tokens than were asked for."""
    if size < vocabulary_size:
        warnings.warn(
            f"The text has only {size} different pieces, fewer than the {vocabulary_size} asked "
            "for. The vocabulary is that small; give more text for a larger one.",
            stacklevel=3,
        )


# === Strings and files ===


def utf8(text: str) -> bytes:
    """Encodes a text; lone surrogates become undecodable bytes."""
    return text.encode("utf-8", "surrogatepass")


def read_json(path: Path) -> dict:
    """Reads a JSON file; an empty dict where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_json(path: Path, content) -> None:
    """Writes a JSON file whole or not at all."""
    write(path, (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode())


def write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def _string_tensor(inputs) -> tf.Tensor | tf.RaggedTensor:
    if isinstance(inputs, (list, tuple)) and any(
        isinstance(item, (list, tuple)) for item in inputs
    ):
        return tf.ragged.constant(inputs)
    return tf.convert_to_tensor(inputs, tf.string if len(inputs) == 0 else None)


def _strings(texts: tf.Tensor | tf.RaggedTensor):
    """A string tensor as (nested lists of) strings of Python."""

    def decoded(value):
        return value.decode() if isinstance(value, bytes) else [decoded(item) for item in value]

    return decoded(texts.to_list() if isinstance(texts, tf.RaggedTensor) else texts.numpy())


def read_special_tokens(directory: Path) -> dict[str, str]:
    """Reads the special tokens that the files of `transformers` name, under the names used here."""
    named = read_json(directory / "special_tokens_map.json") | read_json(directory / CONFIG_FILE)
    tokens = {name: named.get(theirs) for name, theirs in HUGGING_FACE_NAMES.items()}
    # A token is spelled out, or it is an object with `content`.
    tokens = {name: t["content"] if isinstance(t, dict) else t for name, t in tokens.items()}
    return {name: token for name, token in tokens.items() if token is not None}


def read_added_tokens(directory: Path) -> dict[str, int]:
    """Reads the tokens that were added to a vocabulary later, as `transformers` writes them."""
    later = read_json(directory / CONFIG_FILE).get("added_tokens_decoder", {})
    return {
        **read_json(directory / "added_tokens.json"),
        **{token["content"]: int(id) for id, token in later.items()},
    }

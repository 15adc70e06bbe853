r"""Byte-level byte-pair encoding (BPE): the subword tokenizer of GPT-2, RoBERTa and Llama 3.

Text is cut into words, a word into bytes, and then the pair of neighbours that was learnt first is
merged, again and again, until no pair is left that was learnt (Sennrich et al. 2016,
https://arxiv.org/abs/1508.07909). With bytes at the bottom nothing is unknown, and decoding gives
the text back to the letter (Radford et al. 2019, section 2.2).

Notable:

- the merging is done by TensorFlow Text's SentencePiece op, fast, eagerly and in graphs alike. That
  op knows pieces with scores, no pairs; it merges the neighbours whose union has the best score.
  With the rank of the merge as the score this is BPE, provided that each token is what BPE makes of
  that token's own text, for then the pairs that the op may merge are the pairs that were learnt.
  Trained vocabularies are so by construction, and each vocabulary is checked;
- a batch has few different words. Each is merged once and its ids are gathered where it stands;
- words are cut by the regular expressions of the models' authors. RE2, TensorFlow's engine, has no
  lookahead, so what `\s+(?!\S)` says is done first: a mark before the last of several spaces;
- the ids equal those of the `tokenizers` library, but for special tokens spelled out in the text:
  "<|endoftext|>" in a text is plain text here;
- bytes that are not UTF-8 are read as U+FFFD, as everywhere in TensorFlow's string ops.

Files: `vocab.json`, an object from tokens to ids, and `merges.txt`, one merge a line, "left right",
the first learnt first, after a line with the version; or both in one `tokenizer.json`. In them each
byte is written as one printable character: as itself where it is printable in Latin-1, the others
in their order as U+0100 and on. A space is therefore "Ġ" and a newline "Ċ".
"""

import json
import sys
from collections import Counter, namedtuple
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import MappingProxyType

import keras
import numpy as np
import tensorflow as tf
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Steps
from tokenizers.trainers import BpeTrainer

from keras_llm.tokenizers.portable import PairMerger
from keras_llm.tokenizers.subword import (
    CONFIG_FILE,
    NO_REPLACEMENTS,
    TOKENIZER_FILE,
    Offsets,
    SentencepieceEngine,
    SubwordTokenizer,
    character_offsets,
    read_added_tokens,
    read_json,
    read_special_tokens,
    training_texts,
    warn_if_small,
    write,
    write_json,
)

VOCABULARY_FILE = "vocab.json"
MERGES_FILE = "merges.txt"

# White space of Unicode, which RE2's \s is not, without and with ends of lines; and letters and
# numbers with those of Unicode 16, which RE2, at Unicode 15, does not know yet.
_BLANK = r"\t\x{B}\f \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
_SPACE = rf"{_BLANK}\r\n"
_LETTER = (
    r"\p{L}\x{1C89}\x{1C8A}\x{A7CB}-\x{A7CD}\x{A7DA}-\x{A7DC}\x{105C0}-\x{105F3}\x{10D4A}-\x{10D65}"
    r"\x{10D6F}-\x{10D85}\x{10EC2}-\x{10EC4}\x{11380}-\x{11389}\x{1138B}\x{1138E}"
    r"\x{11390}-\x{113B5}\x{113B7}\x{113D1}\x{113D3}\x{11BC0}-\x{11BE0}\x{13460}-\x{143FA}"
    r"\x{16100}-\x{1611D}\x{16D40}-\x{16D6C}\x{18CFF}\x{1E5D0}-\x{1E5ED}\x{1E5F0}\x{2EBF0}-\x{2EE5D}"
)
_NUMBER = (
    r"\p{N}\x{10D40}-\x{10D49}\x{116D0}-\x{116E3}\x{11BF0}-\x{11BF9}\x{16130}-\x{16139}"
    r"\x{16D70}-\x{16D79}\x{1CCF0}-\x{1CCF9}\x{1E5F1}-\x{1E5FA}"
)

_Pattern = namedtuple("_Pattern", ["authors", "last_space", "words"])
# How each family cuts words: the expression of its authors; where, of several spaces before a word,
# the last goes with the word, which is what their lookahead says; and the rest for RE2.
_PATTERNS = {
    "gpt2": _Pattern(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        rf"([{_SPACE}])([{_SPACE}][^{_SPACE}])",
        rf"'s|'t|'re|'ve|'m|'ll|'d| ?[{_LETTER}]+| ?[{_NUMBER}]+"
        rf"| ?[^{_SPACE}{_LETTER}{_NUMBER}]+|[{_SPACE}]+",
    ),
    "llama3": _Pattern(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        rf"([{_SPACE}])([{_BLANK}][^{_SPACE}])",
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n{_LETTER}{_NUMBER}]?[{_LETTER}]+|[{_NUMBER}]{{1,3}}"
        rf"| ?[^{_SPACE}{_LETTER}{_NUMBER}]+[\r\n]*|[{_SPACE}]*[\r\n]+|[{_SPACE}]+",
    ),
}
_END_OF_WORD = b"\xff"  # a byte that UTF-8 never has


@keras.saving.register_keras_serializable(package="keras_llm")
class BytePairTokenizer(SubwordTokenizer):
    """Text to ids of byte-level pieces, and back without loss (Radford et al. 2019, section 2.2).

    A Keras layer: call it on a string, a list or a tensor of strings, eagerly, inside
    `tf.data.Dataset.map` or in a graph that is exported. `detokenize` works in graphs too.

    Args:
        vocabulary: list of tokens in the order of their ids, a dict from tokens to ids, or the path
            of a `vocab.json`. All 256 bytes must be among the tokens.
        merges: list of merges, "left right" or pairs, the first learnt first, or the path of a
            `merges.txt`.
        special_tokens: dict from names to tokens: "start_token", "end_token", "pad_token",
            "unk_token", "mask_token", "cls_token" or "sep_token". `BytePairTokenizer.GPT2`, the
            default, has one token for start, end and padding; `BytePairTokenizer.ROBERTA` has five.
            Where no cls, sep or pad token is named, start and end stand for them.
        pattern: str, how text is cut into words: "gpt2", for RoBERTa too, or "llama3".
        add_prefix_space: bool. Put a space before a text that has none, so that its first word is
            the same token as within a text. Decoded texts then begin with that space.
        whole_words: bool. A word that is a token is this token, even if no merges lead to it, as
            with Llama 3 (`ignore_merges` of the `tokenizers` library).
        **kwargs: `name` and other arguments of `keras.layers.Layer`.

    Raises:
        ValueError: a byte or a special token is missing, the ids have holes, or the merges do not
            fit the vocabulary.
        FileNotFoundError: there is no such file.

    Example:
        >>> tokenizer = BytePairTokenizer.train(["low lower lowest", "new newer newest"] * 2, 268)
        >>> ids = tokenizer.encode("newest low")
        >>> [tokenizer.id_to_token(i) for i in ids]
        ['ne', 'west', 'Ġlo', 'w']
        >>> tokenizer.decode(ids)
        'newest low'
        >>> tokenizer.decode(tokenizer.encode("你好 🙂"))
        '你好 🙂'
    """

    GPT2 = MappingProxyType(
        {
            "start_token": "<|endoftext|>",
            "end_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
        }
    )
    ROBERTA = MappingProxyType(
        {
            "start_token": "<s>",
            "pad_token": "<pad>",
            "end_token": "</s>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
        }
    )

    def __init__(
        self,
        vocabulary: Sequence[str] | Mapping[str, int] | str | Path | None = None,
        merges: Sequence | str | Path | None = None,
        special_tokens: Mapping[str, str] = GPT2,
        pattern: str = "gpt2",
        add_prefix_space: bool = False,
        whole_words: bool = False,
        **kwargs,
    ):
        super().__init__(special_tokens, **kwargs)
        if pattern not in _PATTERNS:
            raise ValueError(f"There is no pattern {pattern!r}; there are {', '.join(_PATTERNS)}.")
        self.pattern = pattern
        self.add_prefix_space = add_prefix_space
        self.whole_words = whole_words
        self.file_assets = [VOCABULARY_FILE, MERGES_FILE]
        self.merges = None
        # None: Keras is loading a file, and gives the vocabulary as an asset.
        if vocabulary is not None:
            self._set_vocabulary(vocabulary, merges)

    # === Training ===

    @classmethod
    def train(
        cls,
        corpus: Iterable[str],
        vocabulary_size: int = 8000,
        special_tokens: Mapping[str, str] = GPT2,
        pattern: str = "gpt2",
        add_prefix_space: bool = False,
    ) -> "BytePairTokenizer":
        """Learns merges: of all pairs of neighbours the most frequent becomes a token, and so on.

        Args:
            corpus: a `keras_llm.corpora.Corpus`, or any iterable of strings; it is read once, as a
                stream.
            vocabulary_size: int, how many tokens, the special ones and the 256 bytes included.
            special_tokens: as in the class; they get the first ids.
            pattern: as in the class.
            add_prefix_space: as in the class.

        Returns:
            A tokenizer with `vocabulary_size` tokens. Where the text has too few pairs that appear
            twice, a warning says how many it gave.

        Raises:
            ValueError: the corpus holds no text, or the vocabulary is too small for the bytes.
            TypeError: the corpus is a single string.

        Example:
            >>> tokenizer = BytePairTokenizer.train(["low lower lowest"] * 2, 260)
            >>> tokenizer.get_vocabulary()[257:]
            ['lo', 'low', 'Ġlow']
        """
        specials = list(dict.fromkeys(special_tokens.values()))
        least = len(specials) + 256
        if vocabulary_size < least:
            raise ValueError(
                f"A vocabulary of {vocabulary_size} tokens is too small: the 256 bytes and the "
                f"special tokens need {least}. Ask for more."
            )
        texts = training_texts(corpus)
        if add_prefix_space:
            texts = (text if text.startswith(" ") else f" {text}" for text in texts)
        model = _reference(BPE(), pattern)
        trainer = BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            special_tokens=specials,
            initial_alphabet=list(_BYTES.values()),
            show_progress=sys.stderr.isatty(),
        )
        model.train_from_iterator(texts, trainer)
        learnt = json.loads(model.to_str())["model"]
        warn_if_small(len(learnt["vocab"]), vocabulary_size)
        return cls(learnt["vocab"], learnt["merges"], special_tokens, pattern, add_prefix_space)

    # === Text to ids ===

    def _tokenize(self, text: tf.Tensor) -> tf.RaggedTensor:
        words = split(text, self.pattern, self.add_prefix_space)  # (texts, words)
        different, places = tf.unique(words.flat_values)
        pieces = self._merged(different)  # (different words, pieces)
        return words.with_flat_values(tf.gather(pieces, places)).merge_dims(1, 2)

    def _tokenize_with_offsets(self, text: tf.Tensor) -> Offsets:
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")  # undecodable bytes: U+FFFD
        characters = tf.strings.unicode_split(text, "UTF-8")  # (texts, characters)
        lengths = tf.strings.length(characters.flat_values)
        if self.add_prefix_space:  # the space that is added counts as part of the first character
            added = (text != "") & (tf.strings.substr(text, 0, 1) != " ")
            first = tf.boolean_mask(characters.row_starts(), added)
            lengths = tf.tensor_scatter_nd_add(
                lengths, first[:, None], tf.ones_like(first, "int32")
            )
        ids = self._tokenize(text)
        tokens = tf.gather(self._texts, ids.flat_values)  # (all tokens,)
        length = tf.strings.length(tokens)
        spaced = (length > 1) & (tf.strings.substr(tokens, 0, 1) == " ")
        ends = tf.cumsum(length)
        before = tf.gather(tf.concat([[0], ends], axis=0), ids.row_starts())  # (texts,)
        ends -= tf.gather(before, ids.value_rowids())
        starts = ends - length + tf.cast(spaced, tf.int32)
        starts, ends = (ids.with_flat_values(places) for places in (starts, ends))
        return character_offsets(characters.with_flat_values(lengths), ids, starts, ends)

    def _merged(self, words: tf.Tensor) -> tf.RaggedTensor:
        if self._whole is None:
            return self._pieces.tokenize(_printable(words))
        ids = self._whole.lookup(words)
        whole = ids >= 0
        merged = self._pieces.tokenize(_printable(tf.where(whole, "", words)))
        alone = tf.RaggedTensor.from_row_lengths(ids[whole], tf.cast(whole, tf.int64))
        return tf.concat([alone, merged], axis=1)  # one of the two is empty

    def _portable_engines(self) -> dict:
        return {"_pieces": PairMerger(self.vocabulary, _ranks(self.merges, self._ids))}

    # === Ids to text ===

    def _detokenize(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor | tf.RaggedTensor:
        text = tf.strings.reduce_join(tf.gather(self._texts, ids), axis=-1)
        return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")  # half a character: U+FFFD

    # === Vocabulary ===

    def _continues(self, token: str) -> bool:
        return token[0] not in "ĠĊĉč"  # space, ends of lines, tab

    def _set_vocabulary(self, vocabulary, merges):
        tokens = _tokens_in_order(vocabulary)
        self._set_tokens(tokens)
        self.merges = _lines(merges)
        ranks = _ranks(self.merges, self._ids)
        _check_bytes(tokens)
        _check_special(self.special_tokens, ranks)
        unreached = _unreached(self._ids, self.merges)
        if not self.whole_words:
            _check_reached(unreached)
        _check_all_ways(unreached, self._ids, self.merges)
        with tf.init_scope():  # constants, never part of a caller's graph
            self._whole = _table({token: self._ids[token] for token in unreached})
            self._pieces = SentencepieceEngine(_proto(tokens, ranks))
            self._texts = tf.constant(self._token_texts({*ranks, *_BYTE_OF}))

    def _token_texts(self, made_of_bytes: set[str]) -> list[bytes]:
        """What each token stands for in a decoded text."""
        texts = [
            bytes(map(_BYTE_OF.get, token)) if token in made_of_bytes else token.encode()
            for token in self.vocabulary
        ]
        for id in self._hidden_ids():
            texts[id] = b""
        return texts

    # === Files ===

    @classmethod
    def load(cls, directory: str | Path, **kwargs) -> "BytePairTokenizer":
        """Reads a tokenizer from a folder: one that `save` wrote, or of a published checkpoint.

        The folder holds `vocab.json` and `merges.txt`, or `tokenizer.json`. The special tokens are
        those that `tokenizer_config.json` or `special_tokens_map.json` name; without these files,
        RoBERTa's or GPT-2's, whichever the vocabulary has.

        Args:
            directory: str or Path of the folder.
            **kwargs: arguments of the class that shall not be as the files say.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: the folder has neither.
            ValueError: `tokenizer.json` is of another kind.

        Example:
            >>> import tempfile
            >>> directory = tempfile.mkdtemp()
            >>> BytePairTokenizer.train(["low"] * 2, 262, BytePairTokenizer.ROBERTA).save(directory)
            >>> BytePairTokenizer.load(directory).mask_token
            '<mask>'
        """
        directory = Path(directory)
        if (directory / VOCABULARY_FILE).is_file():
            vocabulary = read_json(directory / VOCABULARY_FILE)
            found = {"vocabulary": vocabulary, "merges": directory / MERGES_FILE}
        elif (directory / TOKENIZER_FILE).is_file():
            found = _read_tokenizer_file(directory / TOKENIZER_FILE)
        else:
            raise FileNotFoundError(
                f"There is no tokenizer in {directory}. Expected `{VOCABULARY_FILE}` and "
                f"`{MERGES_FILE}`, such as `BytePairTokenizer.save` writes, or `{TOKENIZER_FILE}`."
            )
        vocabulary = found["vocabulary"] = {**found["vocabulary"], **read_added_tokens(directory)}
        specials = read_special_tokens(directory)
        if not specials:
            specials = cls.ROBERTA if set(cls.ROBERTA.values()) <= set(vocabulary) else cls.GPT2
        config = read_json(directory / CONFIG_FILE)
        names = ("add_prefix_space", "pattern", "whole_words")
        given = {name: config[name] for name in names if name in config}
        return cls(**{"special_tokens": specials, **found, **given, **kwargs})

    def save(self, directory: str | Path) -> None:
        """Writes `vocab.json`, `merges.txt` and `tokenizer_config.json`, as GPT-2's and RoBERTa's.

        With Llama's pattern, for which `transformers` wants it, a `tokenizer.json` too.

        Args:
            directory: str or Path, made when missing.

        Raises:
            NotADirectoryError: a file is in the way.

        Example:
            >>> import tempfile
            >>> directory = tempfile.mkdtemp()
            >>> BytePairTokenizer.train(["low lower"] * 2, 260, pattern="llama3").save(directory)
            >>> BytePairTokenizer.load(directory).pattern
            'llama3'
        """
        super().save(directory)
        if self.pattern != "gpt2":
            model = BPE(dict(self._ids), _pairs(self.merges), ignore_merges=self.whole_words)
            reference = _reference(model, self.pattern)
            reference.add_special_tokens(self.special_tokens)
            write(Path(directory) / TOKENIZER_FILE, reference.to_str(pretty=True).encode())

    def save_assets(self, dir_path: str | Path) -> None:
        """Writes `vocab.json` and `merges.txt` into a `.keras` file or a preset; Keras calls it."""
        self._check_vocabulary()
        write_json(Path(dir_path) / VOCABULARY_FILE, self._ids)
        lines = "".join(f"{merge}\n" for merge in ("#version: 0.2", *self.merges))
        write(Path(dir_path) / MERGES_FILE, lines.encode())

    def load_assets(self, dir_path: str | Path) -> None:
        """Reads both back; Keras calls it."""
        self._set_vocabulary(Path(dir_path) / VOCABULARY_FILE, Path(dir_path) / MERGES_FILE)

    def get_config(self) -> dict:
        """Returns the arguments but the vocabulary and merges, which are saved as assets."""
        return {
            **super().get_config(),
            "special_tokens": {name: getattr(self, name) for name in self._special_token_attrs},
            "pattern": self.pattern,
            "add_prefix_space": self.add_prefix_space,
            "whole_words": self.whole_words,
        }

    def _hugging_face_config(self) -> dict:
        family = (
            "RobertaTokenizer" if "mask_token" in self._special_token_attrs else "GPT2Tokenizer"
        )
        return {
            "tokenizer_class": family if self.pattern == "gpt2" else "PreTrainedTokenizerFast",
            "add_prefix_space": self.add_prefix_space,
            "pattern": self.pattern,
            "whole_words": self.whole_words,
        }

    def __reduce__(self):
        config = self.get_config()
        names = ("special_tokens", "pattern", "add_prefix_space", "whole_words")
        return type(self), (self.vocabulary, self.merges, *(config[name] for name in names))


def split(text: tf.Tensor, pattern: str = "gpt2", add_prefix_space: bool = False):
    r"""Cuts texts into words, each with the space before it, as GPT-2 does.

    Args:
        text: string tensor of shape `(texts,)`.
        pattern: str, as in `BytePairTokenizer`.
        add_prefix_space: bool, as in `BytePairTokenizer`.

    Returns:
        Ragged string tensor of shape `(texts, words)`; some words may be empty.

    Example:
        >>> split(tf.constant(["don't  go!"])).to_list()
        [[b'don', b"'t", b' ', b'', b' go', b'!', b'']]
    """
    text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")  # undecodable bytes: U+FFFD
    if add_prefix_space:
        text = tf.strings.regex_replace(text, "^[^ ]", r" \0", replace_global=False)
    # Of several spaces before a word the last goes with the word: the lookahead that RE2 lacks.
    text = tf.strings.regex_replace(
        text, _PATTERNS[pattern].last_space, rb"\1" + _END_OF_WORD + rb"\2"
    )
    text = tf.strings.regex_replace(text, _PATTERNS[pattern].words, rb"\0" + _END_OF_WORD)
    return tf.strings.split(text, _END_OF_WORD)


def _printable(words: tf.Tensor) -> tf.Tensor:
    """Writes each byte of the words as one printable character."""
    values = tf.strings.unicode_decode(words, "ISO-8859-1")  # Latin-1: one code point a byte
    values = values.with_flat_values(tf.gather(_CODE_POINTS, values.flat_values))
    return tf.strings.unicode_encode(values, "UTF-8")


def _proto(tokens: tuple[str, ...], ranks: dict[str, int]) -> bytes:
    """Writes the vocabulary as a SentencePiece model that merges in the order of the ranks."""
    model = sentencepiece_model_pb2.ModelProto()
    piece = model.SentencePiece
    for token in tokens:
        # What is neither a byte nor merged is a token that no text gives.
        kind = piece.NORMAL if token in ranks or token in _BYTE_OF else piece.CONTROL
        model.pieces.add(piece=token, score=-ranks.get(token, 0), type=kind)
    # It must have a piece for the unknown, though nothing is unknown here; no token has a space.
    model.pieces.add(piece=" ", type=piece.UNKNOWN)
    model.trainer_spec.unk_piece = " "
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = False
    model.normalizer_spec.precompiled_charsmap = NO_REPLACEMENTS
    return model.SerializeToString()


def _byte_alphabet() -> dict[int, str]:
    """The printable character of each byte (openai/gpt-2, `bytes_to_unicode`)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = count(0x100)
    return {byte: chr(byte if byte in printable else next(others)) for byte in range(256)}


_BYTES = _byte_alphabet()
_BYTE_OF = {character: byte for byte, character in _BYTES.items()}
_CODE_POINTS = np.array([ord(character) for character in _BYTES.values()], "int32")


# === Checks ===


def _tokens_in_order(vocabulary) -> tuple[str, ...]:
    if isinstance(vocabulary, (str, Path)):
        path = Path(vocabulary)
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no vocabulary at {path}. It should be a JSON object from tokens to ids, "
                "such as the `vocab.json` that `BytePairTokenizer.save` writes."
            )
        vocabulary = read_json(path)
    if not isinstance(vocabulary, Mapping):
        tokens = tuple(vocabulary)
        twice = [token for token, times in Counter(tokens).items() if times > 1]
        if twice:
            raise ValueError(
                f"Tokens appear more than once in the vocabulary: {_listed(twice)}. Keep one each."
            )
        return tokens
    tokens = sorted(vocabulary, key=vocabulary.get)
    for id, token in enumerate(tokens):
        if vocabulary[token] != id:
            raise ValueError(
                f"The ids of a vocabulary of {len(tokens)} tokens go from 0 to {len(tokens) - 1}, "
                f"each once; here {token!r} has {vocabulary[token]} where {id} is due."
            )
    return tuple(tokens)


def _lines(merges) -> tuple[str, ...]:
    """The merges as the lines of `merges.txt`, without the version."""
    if merges is None:
        raise ValueError("`merges` is missing: a vocabulary alone does not say what is merged.")
    if isinstance(merges, (str, Path)):
        path = Path(merges)
        if not path.is_file():
            raise FileNotFoundError(
                f"There are no merges at {path}. It should be a text file with one merge a line, "
                "such as the `merges.txt` that `BytePairTokenizer.save` writes."
            )
        lines = path.read_bytes().decode("utf-8").replace("\r\n", "\n").split("\n")
        return tuple(line for line in lines if line and not line.startswith("#version"))
    return tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in merges)


def _pairs(merges: tuple[str, ...]) -> list[tuple[str, str]]:
    return [tuple(merge.split(" ")) for merge in merges]


def _ranks(merges: tuple[str, ...], ids: Mapping[str, int]) -> dict[str, int]:
    """The rank of the merges that make a token, for each token that some make."""
    ranks, last = {}, None
    for number, merge in enumerate(merges, start=1):
        left, space, right = merge.partition(" ")
        token = left + right
        absent = [part for part in (left, right, token) if part not in ids]
        if absent or not space:
            raise ValueError(
                f"Merge {number}, {merge!r}, does not fit the vocabulary, which lacks "
                f"{_listed(absent or [merge])}. Take both from the same tokenizer."
            )
        # Llama 3's file lists all pairs that make a token, one after the other.
        if token in ranks and token != last:
            raise ValueError(
                f"Merge {number}, {merge!r}, makes a token that an earlier one makes too. Keep the "
                "merge that was learnt."
            )
        ranks.setdefault(token, len(ranks))
        last = token
    return ranks


def _check_bytes(tokens: tuple[str, ...]) -> None:
    absent = sorted(set(_BYTE_OF) - set(tokens))
    if absent:
        raise ValueError(
            f"The vocabulary lacks {len(absent)} of the 256 bytes: {_listed(absent)}. A byte-level "
            "vocabulary has a token for each, written as GPT-2 does ('Ġ' for a space)."
        )


def _check_special(special_tokens: Iterable[str], ranks: Mapping[str, int]) -> None:
    ordinary = [token for token in special_tokens if token in ranks or token in _BYTE_OF]
    if ordinary:
        raise ValueError(
            f"Text can give the special tokens {_listed(ordinary)}: they are bytes or made by a "
            "merge. Choose special tokens that no text gives, such as '<|endoftext|>'."
        )


def _reference(model: BPE, pattern: str) -> Tokenizer:
    """The same tokenizer in the reference library, which trains and checks."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = Steps(
        [
            Split(Regex(_PATTERNS[pattern].authors), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = ByteLevelDecoder()
    return tokenizer


def _unreached(ids: Mapping[str, int], merges: tuple[str, ...]) -> list[str]:
    """Asks the reference which merged tokens are not what their own text is merged to."""
    pairs = _pairs(merges)
    reference = BPE(dict(ids), pairs)
    made = dict.fromkeys(left + right for left, right in pairs)
    return [token for token in made if len(reference.tokenize(token)) != 1]


def _check_reached(unreached: list[str]) -> None:
    if unreached:
        raise ValueError(
            f"No text gives {len(unreached)} of the merged tokens: {_listed(unreached)}. Other "
            "merges, learnt before, take their letters. Leave their merges out; or, if a word that "
            "is a token shall be it, pass `whole_words=True`."
        )


def _check_all_ways(unreached: list[str], ids: Mapping[str, int], merges: tuple[str, ...]) -> None:
    """A token that its own text does not give may still arise in others, in any way there is."""
    known = set(merges) if unreached else ()
    absent = [
        f"{token[:i]} {token[i:]}"
        for token in unreached
        for i in range(1, len(token))
        if token[:i] in ids and token[i:] in ids and f"{token[:i]} {token[i:]}" not in known
    ]
    if absent:
        raise ValueError(
            f"{len(unreached)} tokens are not what their own text is merged to, and some ways to "
            f"make them are no merges: {_listed(absent)}. Such merges cannot be followed here."
        )


def _table(ids: Mapping[str, int]) -> tf.lookup.StaticHashTable | None:
    """Looks up the words that are tokens against the merges; None where there are none."""
    if not ids:
        return None
    words = [bytes(map(_BYTE_OF.get, token)) for token in ids]
    entries = tf.lookup.KeyValueTensorInitializer(words, [*ids.values()], tf.string, tf.int32)
    return tf.lookup.StaticHashTable(entries, default_value=-1)


def _read_tokenizer_file(path: Path) -> dict:
    """Reads vocabulary, merges and settings of a `tokenizer.json`, if they are of this kind."""
    content = read_json(path)
    steps = content["pre_tokenizer"] or {}
    *cuts, last = steps.get("pretokenizers", [steps])
    authors = [cut.get("pattern", {}).get("Regex") for cut in cuts]
    if last.get("use_regex", True):
        authors.append(_PATTERNS["gpt2"].authors)
    pattern = {(cut.authors,): name for name, cut in _PATTERNS.items()}.get(tuple(authors))
    if (
        content["model"].get("type", "BPE") != "BPE"
        or last.get("type") != "ByteLevel"
        or pattern is None
        or content["normalizer"] is not None
    ):
        raise ValueError(
            f"{path} is no byte-level BPE tokenizer that cuts words as {' or '.join(_PATTERNS)} do."
        )
    in_text = [token["content"] for token in content["added_tokens"] if not token["special"]]
    if in_text:
        raise ValueError(
            f"{path} adds tokens that are found in texts before they are cut: {_listed(in_text)}. "
            "Here only merges make tokens of texts."
        )
    return {
        "vocabulary": {
            **content["model"]["vocab"],
            **{token["content"]: token["id"] for token in content["added_tokens"]},
        },
        "merges": content["model"]["merges"],
        "pattern": pattern,
        "add_prefix_space": last["add_prefix_space"],
        "whole_words": content["model"].get("ignore_merges", False),
    }


def _listed(tokens: Iterable[str], most: int = 10) -> str:
    """Names tokens in a message, the first of many."""
    tokens = [repr(token) for token in tokens]
    more = f" and {len(tokens) - most} more" if len(tokens) > most else ""
    return ", ".join(tokens[:most]) + more

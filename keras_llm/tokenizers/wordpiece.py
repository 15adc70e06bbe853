"""WordPiece: the subword tokenizer of BERT.

What is notable:

- one engine, TensorFlow Text, does all of the work: training text, `encode` in Python, tf.data and
  an exported SavedModel go through the same two steps, so what is trained on is what is served;
- the first step, `normalize`, is BERT's recipe (clean, decompose, strip accents, lowercase) written
  as string ops, not TensorFlow Text's own BERT normalizer: that one folds by NFKC, which turns the
  Chinese comma "，" into "," and so looks up the wrong rows of a published Chinese vocabulary. Ours
  is as fast;
- the second splits at spaces, punctuation and ideographs and finds the longest pieces in one pass
  over the text (Song et al. 2021, "Fast WordPiece Tokenization", https://arxiv.org/abs/2012.15524).

The ids equal those of `tokenizers.BertWordPieceTokenizer`, except for

- code points that Unicode added after version 8.0 (2015), and U+166D, U+1734, U+1885, U+1886,
  U+A9BD and U+111C9, reclassified since: the libraries know different versions of Unicode;
- U+2B820 to U+2B91F, ideographs that the reference leaves out of its list of ideographs;
- words of more than 100 characters, unknown to the reference, and here only beyond 400 bytes;
- special tokens spelled out in the text: "[MASK]" in a text is three plain tokens here.
"""

import functools
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import keras
import tensorflow as tf
import tensorflow_text
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from keras_llm.tokenizers.portable import LongestMatch, Replacements, decompositions
from keras_llm.tokenizers.subword import (
    CONFIG_FILE,
    NO_TEXT,
    TOKENIZER_FILE,
    Offsets,
    SubwordTokenizer,
    character_offsets,
    read_json,
    training_texts,
    utf8,
    warn_if_small,
    write,
)

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
VOCABULARY_FILE = "vocab.txt"
MAX_BYTES_PER_WORD = 400

# Control, format and private-use characters, NUL and U+FFFD (which also stands for undecodable
# bytes), but not tab, newline and carriage return: they are spaces.
_CONTROL = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\x{FFFD}\p{Cf}\p{Co}"
_ACCENTS = r"\p{Mn}"

# The ideographs that BERT makes words of their own, as a class for Python's `re`.
_IDEOGRAPHS = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f"
)
# Ideographs and the punctuation, kana and full-width forms that are set without spaces beside them.
_UNSPACED = _IDEOGRAPHS + "\u2e80-\u303f\u3040-\u30ff\uff00-\uffef“”‘’…—·"


@keras.saving.register_keras_serializable(package="keras_llm")
class WordPieceTokenizer(SubwordTokenizer):
    """Text to ids of subword pieces, and back (Wu et al. 2016, section 4.1; Devlin et al. 2018).

    A Keras layer: call it on a string, a list or a tensor of strings, eagerly, inside
    `tf.data.Dataset.map` or in a graph that is exported. `encode`, `encode_batch` and `decode` are
    the same for plain Python lists.

    Undecodable bytes are dropped, as control characters are.

    Args:
        vocabulary: list of tokens in the order of their ids, or the path of a `vocab.txt` with one
            token a line. Pieces that continue a word begin with "##". The special tokens `[PAD]`,
            `[UNK]`, `[CLS]`, `[SEP]` and `[MASK]` may stand anywhere.
        lowercase: bool. Lowercase the text and strip accents, as BERT "uncased" does.
        **kwargs: `name` and other arguments of `keras.layers.Layer`.

    Raises:
        ValueError: a special token is missing, or a token appears twice.
        FileNotFoundError: there is no such vocabulary file.

    Example:
        >>> words = ["un", "##believ", "##able", "!", "你", "好"]
        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
        >>> tokenizer.encode("Unbelievable! 你好")
        [5, 6, 7, 8, 9, 10]
        >>> tokenizer(["unbelievable", "好 cat"])
        <tf.RaggedTensor [[5, 6, 7], [10, 1]]>
        >>> tokenizer.decode([2, 9, 10, 8, 5, 6, 7, 3, 0])
        '你好! unbelievable'
    """

    def __init__(
        self,
        vocabulary: Sequence[str] | str | Path | None = None,
        lowercase: bool = True,
        **kwargs,
    ):
        super().__init__(SPECIAL_TOKENS, **kwargs)
        self.lowercase = lowercase
        self.file_assets = [VOCABULARY_FILE]
        self._decompose = _nfd
        # None: Keras is loading a file, and gives the vocabulary as an asset.
        if vocabulary is not None:
            self._set_vocabulary(vocabulary)

    # === Training ===

    @classmethod
    def train(
        cls,
        corpus: Iterable[str],
        vocabulary_size: int = 8000,
        lowercase: bool = True,
    ) -> "WordPieceTokenizer":
        """Learns a vocabulary: all characters first, then the most useful pieces, until it is full.

        Every character of the text gets a token. Only where that would not fit, the rarest
        ideographs, each a word of its own, are left to be `[UNK]`.

        Args:
            corpus: a `keras_llm.corpora.Corpus`, or any iterable of strings; it is read once, as a
                stream.
            vocabulary_size: int, how many tokens, special ones included.
            lowercase: bool. Lowercase the text and strip accents.

        Returns:
            A tokenizer with `vocabulary_size` tokens. Where the text has too few different pieces,
            a warning says how many it gave.

        Raises:
            ValueError: the corpus holds no text, or the vocabulary is too small for its characters.
            TypeError: the corpus is a single string.

        Example:
            >>> tokenizer = WordPieceTokenizer.train(["low lower lowest new newer newest"] * 4, 31)
            >>> [tokenizer.id_to_token(i) for i in tokenizer.encode("Newest")]
            ['newest']
        """
        texts = training_texts(corpus)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "normal.txt"
            characters = _write_normal(texts, lowercase, file)
            if not characters:
                raise ValueError(NO_TEXT)
            specials = list(SPECIAL_TOKENS.values())
            # The trainer meets the characters in an order that differs from run to run, and breaks
            # ties by it. So a first training, without merges, only lists them; the second gets them
            # in order, and the same text always gives the same vocabulary.
            alphabet = set(_train_pieces(file, len(specials), specials)) - set(specials)
            alphabet = sorted(alphabet, key=lambda token: (token.startswith("##"), token))
            vocabulary = _fit(specials + alphabet, vocabulary_size, characters)
            if len(vocabulary) < vocabulary_size:
                vocabulary = _train_pieces(file, vocabulary_size, vocabulary)
        warn_if_small(len(vocabulary), vocabulary_size)
        return cls(vocabulary, lowercase=lowercase)

    # === Text to ids ===

    def _tokenize(self, text: tf.Tensor) -> tf.RaggedTensor:
        return self._pieces.tokenize(self._normalize(text))

    def _tokenize_with_offsets(self, text: tf.Tensor) -> Offsets:
        # What is normalized character by character gives as many bytes as all of it at once.
        characters = tf.strings.unicode_split(text, "UTF-8")  # (texts, characters)
        different, places = tf.unique(characters.flat_values)
        lengths = tf.strings.length(self._normalize(different))
        lengths = characters.with_flat_values(tf.gather(lengths, places))
        pieces = self._pieces.tokenize_with_offsets(self._normalize(text))
        return character_offsets(lengths, *pieces)

    def _normalize(self, text: tf.Tensor) -> tf.Tensor:
        return normalize(text, self.lowercase, self._decompose)

    def _portable_engines(self) -> dict:
        return {
            "_pieces": LongestMatch(self.vocabulary, self.unk_token_id, MAX_BYTES_PER_WORD),
            "_decompose": Replacements(decompositions("NFD")),
        }

    # === Ids to text ===

    def _detokenize(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor | tf.RaggedTensor:
        """Joins pieces, and words with the spaces of print.

        Spacing and capitals are lost in tokenizing: this is a good guess, not an inverse.
        """
        if ids.shape.rank == 1:
            return self._detokenize(ids[tf.newaxis])[0]
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(ids, ragged_rank=ids.shape.rank - 1)
        tokens = ids.with_flat_values(tf.gather(self._tokens, ids.flat_values))
        shown = ids.with_flat_values(tf.gather(self._shown, ids.flat_values))
        texts = tf.strings.reduce_join(tf.ragged.boolean_mask(tokens, shown), -1, separator=" ")
        if isinstance(texts, tf.RaggedTensor):
            return texts.with_flat_values(_spaced(texts.flat_values))
        return _spaced(texts)

    # === Vocabulary ===

    def _continues(self, token: str) -> bool:
        return token.startswith("##") and len(token) > 2

    def _set_vocabulary(self, vocabulary):
        if isinstance(vocabulary, (str, Path)):
            vocabulary = _read_vocabulary(Path(vocabulary))
        vocabulary = tuple(vocabulary)
        _check_tokens(vocabulary)
        self._set_tokens(vocabulary)
        with (
            tf.init_scope()
        ):  # the model of the pieces is a constant, never part of a caller's graph
            self._pieces = tensorflow_text.FastWordpieceTokenizer(
                vocab=list(vocabulary),
                max_bytes_per_word=MAX_BYTES_PER_WORD,
                token_out_type=tf.int32,
                unknown_token=self.unk_token,
            )
            hidden = self._hidden_ids()
            self._tokens = tf.constant(vocabulary)
            self._shown = tf.constant([id not in hidden for id in range(len(vocabulary))])

    # === Files ===

    @classmethod
    def load(cls, directory: str | Path, lowercase: bool | None = None) -> "WordPieceTokenizer":
        r"""Reads a tokenizer from a folder: one that `save` wrote, or of any BERT checkpoint.

        Args:
            directory: str or Path of a folder that holds `vocab.txt` or `tokenizer.json`.
            lowercase: bool. By default what `tokenizer_config.json` says; without that file, True
                when no token but the special ones has a capital letter.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: the folder holds neither file.

        Example:
            >>> import pathlib, tempfile
            >>> directory = pathlib.Path(tempfile.mkdtemp())
            >>> tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Cat"]
            >>> _ = (directory / "vocab.txt").write_text("\n".join(tokens))
            >>> WordPieceTokenizer.load(directory).lowercase
            False
        """
        directory = Path(directory)
        if (directory / TOKENIZER_FILE).is_file() and not (directory / VOCABULARY_FILE).is_file():
            ids = read_json(directory / TOKENIZER_FILE)["model"]["vocab"]
            vocabulary = sorted(ids, key=ids.get)
        else:
            vocabulary = _read_vocabulary(directory / VOCABULARY_FILE)
        if lowercase is None:
            lowercase = read_json(directory / CONFIG_FILE).get("do_lower_case")
        if lowercase is None:
            lowercase = all(t == t.lower() for t in vocabulary if not re.fullmatch(r"\[.+\]", t))
        return cls(vocabulary, lowercase=lowercase)

    def save_assets(self, dir_path: str | Path) -> None:
        """Writes `vocab.txt` into a `.keras` file or a preset; Keras calls it."""
        lines = "".join(f"{token}\n" for token in self.get_vocabulary())
        write(Path(dir_path) / VOCABULARY_FILE, lines.encode())

    def load_assets(self, dir_path: str | Path) -> None:
        """Reads `vocab.txt` back; Keras calls it."""
        self._set_vocabulary(Path(dir_path) / VOCABULARY_FILE)

    def get_config(self) -> dict:
        """Returns the arguments but the vocabulary, which is saved as an asset."""
        return {**super().get_config(), "lowercase": self.lowercase}

    def _hugging_face_config(self) -> dict:
        return {"tokenizer_class": "BertTokenizer", "do_lower_case": self.lowercase}

    def __reduce__(self):
        return type(self), (self.vocabulary, self.lowercase)


_nfd = functools.partial(tensorflow_text.normalize_utf8, normalization_form="NFD")


def normalize(text: tf.Tensor, lowercase: bool, decompose=_nfd) -> tf.Tensor:
    r"""Cleans text as BERT does before it splits it (google-research/bert, `tokenization.py`).

    Args:
        text: string tensor of any shape.
        lowercase: bool. Lowercase and strip accents too.
        decompose: what takes characters apart for that.

    Returns:
        String tensor of the same shape.

    Example:
        >>> normalize(tf.constant("Ce\u0301line\0 ΟΔΟΣ，"), lowercase=True).numpy().decode()
        'celine οδοσ，'
    """
    text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")  # undecodable bytes: U+FFFD
    if not lowercase:
        return tf.strings.regex_replace(text, f"[{_CONTROL}]+", "")
    text = decompose(text)
    text = tf.strings.regex_replace(text, f"[{_CONTROL}{_ACCENTS}]+", "")
    # Two places where lowercasing would depend on the neighbours or on the machine's locale: a
    # sigma at a word's end (σ or ς), and I, lowered here as ASCII, for it would be ı on a Turkish
    # machine.
    text = tf.strings.regex_replace(text, "Σ", "σ")
    text = tf.strings.lower(text)
    return tf.strings.lower(text, encoding="utf-8")


def _write_normal(texts: Iterable[str], lowercase: bool, file: Path) -> Counter:
    """Streams texts to a file, as the engine sees them, and counts their characters."""
    texts = iter(texts)
    characters = Counter()
    with open(file, "w", encoding="utf-8", newline="\n") as lines:
        while block := list(islice(texts, 64)):
            for text in normalize(tf.constant([utf8(text) for text in block]), lowercase).numpy():
                text = text.decode()
                characters.update("".join(text.split()))
                lines.write(text + "\n")
    return characters


def _train_pieces(file: Path, vocabulary_size: int, first: list[str]) -> list[str]:
    """Learns pieces from normal text; the tokens of `first` get the first ids."""
    model = Tokenizer(WordPiece(unk_token=SPECIAL_TOKENS["unk_token"]))
    # What is left to do for the trainer is to split at ideographs, spaces and punctuation.
    model.normalizer = BertNormalizer(clean_text=False, strip_accents=False, lowercase=False)
    model.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        special_tokens=first,
        show_progress=sys.stderr.isatty(),
    )
    model.train([str(file)], trainer)
    ids = model.get_vocab()
    return sorted(ids, key=ids.get)


def _fit(vocabulary: list[str], size: int, characters: Counter) -> list[str]:
    """Drops the rarest ideographs where the characters alone are too many for the vocabulary."""
    excess = len(vocabulary) - size
    if excess <= 0:
        return vocabulary
    ideographs = [token for token in vocabulary if re.fullmatch(f"[{_IDEOGRAPHS}]", token)]
    if excess > len(ideographs):
        raise ValueError(
            f"A vocabulary of {size} tokens is too small for this text: its letters, digits and "
            "signs, at a word's start and within, and the special tokens need "
            f"{len(vocabulary) - len(ideographs)}. Ask for at least as many; {len(vocabulary)} "
            "would hold every character."
        )
    rarest = set(sorted(ideographs, key=lambda token: characters[token])[:excess])
    return [token for token in vocabulary if token not in rarest]


def _read_vocabulary(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no vocabulary at {path}. It should be a text file with one token a line, "
            "such as the `vocab.txt` that `WordPieceTokenizer.save` writes."
        )
    # Only \n ends a line: other separators of Unicode may be tokens.
    lines = path.read_bytes().decode("utf-8").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _check_tokens(vocabulary: tuple[str, ...]) -> None:
    lines = {}
    for line, token in enumerate(vocabulary, start=1):
        lines.setdefault(token, []).append(str(line))
    twice = {token: where for token, where in lines.items() if len(where) > 1}
    if twice:
        listed = "; ".join(
            f"{token!r} on lines {', '.join(where)}" for token, where in twice.items()
        )
        raise ValueError(
            f"Tokens appear more than once in the vocabulary: {listed}. Keep one of each."
        )
    if len(vocabulary) == len(SPECIAL_TOKENS):
        raise ValueError("The vocabulary holds nothing but special tokens. Add tokens of text.")
    if "" in lines:
        raise ValueError(f"The vocabulary has an empty token on line {lines[''][0]}. Remove it.")


# What is set without the space before it, after it or on both sides.
_SPACES = (
    (r" ##(\S)", r"\1"),  # a piece that goes on with the word before
    (rf"([{_UNSPACED}]) ", r"\1"),
    (rf" ([{_UNSPACED}])", r"\1"),
    (r" ([.,!?;:%)\]}])", r"\1"),
    (r"([(\[{$£€#]) ", r"\1"),
    *[(r"([\pL\pN_]) (['’/–-]) ([\pL\pN_])", r"\1\2\3")] * 2,  # don't, and/or; a-b-c takes two
    *[(r"(\p{Nd}[.,]) (\p{Nd})", r"\1\2")] * 2,  # 3.5, 10,000
    (r'" (.*?) "', r'"\1"'),
)


def _spaced(texts: tf.Tensor) -> tf.Tensor:
    """Takes out the spaces between tokens that print does not have."""
    for pattern, rewrite in _SPACES:
        texts = tf.strings.regex_replace(texts, pattern, rewrite)
    return texts

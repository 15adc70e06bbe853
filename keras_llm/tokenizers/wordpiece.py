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

import json
import os
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from pathlib import Path

import keras
import keras_hub
import tensorflow as tf
import tensorflow_text
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
VOCABULARY_FILE = "vocab.txt"
CONFIG_FILE = "tokenizer_config.json"
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
class WordPieceTokenizer(keras_hub.tokenizers.Tokenizer):
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
        super().__init__(dtype="int32", **kwargs)
        self.lowercase = lowercase
        self.file_assets = [VOCABULARY_FILE]
        for name, token in SPECIAL_TOKENS.items():
            self._add_special_token(token, name)
        # By these names KerasHub's preprocessors ask for them.
        self._add_special_token(self.cls_token, "start_token")
        self._add_special_token(self.sep_token, "end_token")
        self.vocabulary = None
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
        if isinstance(corpus, str):
            raise TypeError(
                "`corpus` is a single string, whose characters would each be taken for a text. "
                "Pass a list of texts: `train([text])`."
            )
        texts = corpus.texts() if hasattr(corpus, "texts") else corpus
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "normal.txt"
            characters = _write_normal(texts, lowercase, file)
            if not characters:
                raise ValueError(
                    "The corpus holds no text to learn a vocabulary from. Check its path or split."
                )
            specials = list(SPECIAL_TOKENS.values())
            # The trainer meets the characters in an order that differs from run to run, and breaks
            # ties by it. So a first training, without merges, only lists them; the second gets them
            # in order, and the same text always gives the same vocabulary.
            alphabet = set(_train_pieces(file, len(specials), specials)) - set(specials)
            alphabet = sorted(alphabet, key=lambda token: (token.startswith("##"), token))
            vocabulary = _fit(specials + alphabet, vocabulary_size, characters)
            if len(vocabulary) < vocabulary_size:
                vocabulary = _train_pieces(file, vocabulary_size, vocabulary)
        if len(vocabulary) < vocabulary_size:
            warnings.warn(
                f"The text has only {len(vocabulary)} different pieces, fewer than the "
                f"{vocabulary_size} asked for. "
                "The vocabulary is that small; give more text for a larger one.",
                stacklevel=2,
            )
        return cls(vocabulary, lowercase=lowercase)

    # === Text to ids ===

    def tokenize(self, inputs) -> tf.RaggedTensor:
        """Turns strings into ids, eagerly or in a graph.

        Args:
            inputs: string, or (nested) list or tensor of strings, UTF-8, of shape `(...)`.

        Returns:
            int32 ids of shape `(..., None)`, ragged; a plain tensor `(None,)` for a single string.

        Raises:
            TypeError: the inputs are not strings.

        Example:
            >>> WordPieceTokenizer([*SPECIAL_TOKENS.values(), "cat"]).tokenize("A cat")
            <tf.Tensor: shape=(2,), dtype=int32, numpy=array([1, 5], dtype=int32)>
        """
        self._check_vocabulary()
        text = inputs if tf.is_tensor(inputs) else _string_tensor(inputs)
        if text.dtype != tf.string:
            raise TypeError(f"A tokenizer takes strings; these inputs are {text.dtype.name}.")
        return self._pieces.tokenize(normalize(text, self.lowercase))

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
            >>> WordPieceTokenizer([*SPECIAL_TOKENS.values(), "cat"]).encode("Cat?")
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
            >>> WordPieceTokenizer([*SPECIAL_TOKENS.values(), "cat"]).encode_batch(["cat", ""])
            [[5], []]
        """
        if len(texts) == 0:
            return []
        rows = self.tokenize(tf.constant([_utf8(text) for text in texts]))
        ids, bounds = rows.values.numpy().tolist(), rows.row_splits.numpy().tolist()
        return [ids[start:end] for start, end in pairwise(bounds)]

    # === Ids to text ===

    def decode(self, ids: Iterable[int]) -> str:
        """Writes ids as readable text, its pieces joined, punctuation and ideographs spaced.

        The original spacing and capitals are lost in tokenizing, so this is a good guess, not an
        inverse.

        Args:
            ids: ids of one text. `[PAD]`, `[CLS]`, `[SEP]` and `[MASK]` are left out.

        Returns:
            The text.

        Example:
            >>> words = ["don", "'", "t", "##s", ",", "(", ")"]
            >>> tokenizer = WordPieceTokenizer([*SPECIAL_TOKENS.values(), *words])
            >>> tokenizer.decode(tokenizer.encode("don't, (ts)"))
            "don't, (ts)"
        """
        hidden = {self.pad_token_id, self.cls_token_id, self.sep_token_id, self.mask_token_id}
        tokens = [self.id_to_token(int(i)) for i in ids if int(i) not in hidden]
        words = []
        for token in tokens:
            if token.startswith("##") and len(token) > 2 and words:
                words[-1] += token[2:]
            else:
                words.append(token)
        return _spaced(words)

    def detokenize(self, inputs) -> list[str]:
        """Writes a batch of ids as texts with `decode`.

        Args:
            inputs: ids, a list of lists or a ragged or dense tensor of shape `(batch, None)`.

        Returns:
            A list of `batch` texts.

        Example:
            >>> tokenizer = WordPieceTokenizer([*SPECIAL_TOKENS.values(), "a", "cat"])
            >>> tokenizer.detokenize(tokenizer(["a cat", "a"]))
            ['a cat', 'a']
        """
        if isinstance(inputs, tf.RaggedTensor):
            inputs = inputs.to_list()
        return [self.decode(row) for row in inputs]

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

    def _set_vocabulary(self, vocabulary):
        if isinstance(vocabulary, (str, Path)):
            vocabulary = _read_vocabulary(Path(vocabulary))
        vocabulary = tuple(vocabulary)
        _check_tokens(vocabulary)
        self.vocabulary = vocabulary
        self._ids = {token: id for id, token in enumerate(vocabulary)}
        with (
            tf.init_scope()
        ):  # the model of the pieces is a constant, never part of a caller's graph
            self._pieces = tensorflow_text.FastWordpieceTokenizer(
                vocab=list(vocabulary),
                max_bytes_per_word=MAX_BYTES_PER_WORD,
                token_out_type=tf.int32,
                unknown_token=self.unk_token,
            )
        self._update_special_token_ids()

    def _check_vocabulary(self):
        if self.vocabulary is None:
            raise ValueError(
                "This tokenizer has no vocabulary yet. Give it one, "
                "`WordPieceTokenizer(vocabulary)`, or learn one from text with "
                "`WordPieceTokenizer.train(corpus)`."
            )

    # === Files ===

    def save(self, directory: str | Path) -> None:
        """Writes `vocab.txt` and `tokenizer_config.json`, both as BERT's in `transformers`.

        Args:
            directory: str or Path, made when missing.

        Raises:
            NotADirectoryError: a file is in the way.

        Example:
            >>> import tempfile
            >>> directory = tempfile.mkdtemp()
            >>> WordPieceTokenizer([*SPECIAL_TOKENS.values(), "cat"]).save(directory)
            >>> WordPieceTokenizer.load(directory).encode("CAT")
            [5]
        """
        directory = Path(directory)
        if directory.exists() and not directory.is_dir():
            raise NotADirectoryError(
                f"{directory} is a file. A tokenizer is saved as a folder: choose another name."
            )
        directory.mkdir(parents=True, exist_ok=True)
        self.save_assets(directory)
        config = {"tokenizer_class": "BertTokenizer", "do_lower_case": self.lowercase}
        _write(directory / CONFIG_FILE, json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls, directory: str | Path, lowercase: bool | None = None) -> "WordPieceTokenizer":
        r"""Reads a tokenizer from a folder: one that `save` wrote, or of any BERT checkpoint.

        Args:
            directory: str or Path of a folder that holds `vocab.txt`.
            lowercase: bool. By default what `tokenizer_config.json` says; without that file, True
                when no token but the special ones has a capital letter.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: the folder holds no `vocab.txt`.

        Example:
            >>> import pathlib, tempfile
            >>> directory = pathlib.Path(tempfile.mkdtemp())
            >>> tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Cat"]
            >>> _ = (directory / "vocab.txt").write_text("\n".join(tokens))
            >>> WordPieceTokenizer.load(directory).lowercase
            False
        """
        directory = Path(directory)
        vocabulary = _read_vocabulary(directory / VOCABULARY_FILE)
        config = directory / CONFIG_FILE
        if lowercase is None and config.is_file():
            lowercase = json.loads(config.read_text(encoding="utf-8")).get("do_lower_case")
        if lowercase is None:
            lowercase = all(t == t.lower() for t in vocabulary if not re.fullmatch(r"\[.+\]", t))
        return cls(vocabulary, lowercase=lowercase)

    def save_assets(self, dir_path: str | Path) -> None:
        """Writes `vocab.txt` into a `.keras` file or a preset; Keras calls it."""
        lines = "".join(f"{token}\n" for token in self.get_vocabulary())
        _write(Path(dir_path) / VOCABULARY_FILE, lines)

    def load_assets(self, dir_path: str | Path) -> None:
        """Reads `vocab.txt` back; Keras calls it."""
        self._set_vocabulary(Path(dir_path) / VOCABULARY_FILE)

    def get_config(self) -> dict:
        """Returns the arguments but the vocabulary, which is saved as an asset."""
        config = super().get_config()
        del config["dtype"]  # always int32
        return {**config, "lowercase": self.lowercase}

    def __reduce__(self):
        return type(self), (self.vocabulary, self.lowercase)


def normalize(text: tf.Tensor, lowercase: bool) -> tf.Tensor:
    r"""Cleans text as BERT does before it splits it (google-research/bert, `tokenization.py`).

    Args:
        text: string tensor of any shape, ragged or not.
        lowercase: bool. Lowercase and strip accents too.

    Returns:
        String tensor of the same shape.

    Example:
        >>> normalize(tf.constant("Ce\u0301line\0 ΟΔΟΣ，"), lowercase=True).numpy().decode()
        'celine οδοσ，'
    """
    if isinstance(text, tf.RaggedTensor):
        return text.with_flat_values(normalize(text.flat_values, lowercase))
    text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")  # undecodable bytes: U+FFFD
    if not lowercase:
        return tf.strings.regex_replace(text, f"[{_CONTROL}]+", "")
    text = tensorflow_text.normalize_utf8(text, "NFD")
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
            for text in normalize(tf.constant([_utf8(text) for text in block]), lowercase).numpy():
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
    missing = [token for token in SPECIAL_TOKENS.values() if token not in lines]
    if missing:
        raise ValueError(
            f"The vocabulary lacks the special tokens {', '.join(missing)}. Add each as a token of "
            "its own."
        )
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


def _utf8(text: str) -> bytes:
    """Encodes a text; lone surrogates become undecodable bytes, which `normalize` drops."""
    return text.encode("utf-8", "surrogatepass")


def _string_tensor(inputs) -> tf.Tensor | tf.RaggedTensor:
    if isinstance(inputs, (list, tuple)) and any(
        isinstance(item, (list, tuple)) for item in inputs
    ):
        return tf.ragged.constant(inputs)
    return tf.convert_to_tensor(inputs, tf.string if len(inputs) == 0 else None)


def _spaced(words: list[str]) -> str:
    """Joins words with the spaces of print."""
    text = " ".join(words)
    text = re.sub(f"(?<=[{_UNSPACED}]) | (?=[{_UNSPACED}])", "", text)
    text = re.sub(r" (?=[.,!?;:%)\]}])|(?<=[(\[{$£€#]) ", "", text)
    text = re.sub(r"(?<=\w) (['’/–-]) (?=\w)", r"\1", text)  # don't, and/or, twenty-first
    text = re.sub(r"(?<=\d)([.,]) (?=\d)", r"\1", text)  # 3.5, 10,000
    return re.sub(r'" (.*?) "', r'"\1"', text)


def _write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    with open(part, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)

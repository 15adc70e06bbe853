"""Unigram: the subword tokenizer of T5 and XLNet, in SentencePiece's files.

Each piece has a probability, a text is cut into the pieces whose product of probabilities is the
highest, and the vocabulary is what is left of a large one when the pieces that the likelihood of
the text misses least have been dropped, again and again (Kudo 2018, section 3.2,
https://arxiv.org/abs/1804.10959).

Notable:

- text is not cut into words first. A space is a character like others, written "▁", so that a text
  comes back from its pieces without rules of a language (Kudo and Richardson 2018,
  https://arxiv.org/abs/1808.06226);
- a model says how it normalizes. `nmt_nfkc`, the usual one and T5's, folds compatible characters:
  "，" is read and written as ",". Runs of spaces are read as one;
- SentencePiece learns, and its op in TensorFlow Text tokenizes, eagerly and in graphs alike. The
  ids are those of the library's own Python interface, save where two ways to cut a word are equally
  likely ("III" as "II", "I" or as "I", "II"): there the two versions may choose differently;
- T5 marks the spans that it corrupts with sentinels, `<extra_id_0>`, `<extra_id_1>`, ..., which are
  no part of the SentencePiece model. They stand behind it, the first with the highest id;
- special tokens and sentinels spelled out in a text are plain text;
- bytes that are not UTF-8 are read as U+FFFD, as everywhere in TensorFlow's string ops;
- SentencePiece models that merge pairs, such as Llama 2's, are read too: their file says so.

Files: `spiece.model`, for Llama `tokenizer.model`, is a protocol buffer (google/sentencepiece,
`sentencepiece_model.proto`): pieces with their scores and types in the order of their ids, and the
settings of trainer and normalizer.
"""

import base64
import functools
import io
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import keras
import numpy as np
import sentencepiece
import tensorflow as tf
import tensorflow_text
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from keras_llm.tokenizers.portable import MostProbable, Replacements, decompositions
from keras_llm.tokenizers.subword import (
    CONFIG_FILE,
    NO_REPLACEMENTS,
    NO_TEXT,
    TOKENIZER_FILE,
    SentencepieceEngine,
    SubwordTokenizer,
    read_json,
    read_special_tokens,
    training_texts,
    warn_if_small,
    write,
)

MODEL_FILE = "spiece.model"
LLAMA_FILE = "tokenizer.model"
T5_NAMES = ("t5", "T5Tokenizer", "T5TokenizerFast")
XLNET_NAMES = ("xlnet", "XLNetTokenizer", "XLNetTokenizerFast")
MODEL_FILES = (MODEL_FILE, LLAMA_FILE, "sentencepiece.bpe.model")
_SENTINEL = re.compile(r"<extra_id_\d+>")
PIECE = sentencepiece_model_pb2.ModelProto.SentencePiece
MODEL = sentencepiece_model_pb2.TrainerSpec


@keras.saving.register_keras_serializable(package="keras_llm")
class UnigramTokenizer(SubwordTokenizer):
    r"""Text to ids of the likeliest pieces, and back (Kudo 2018; Kudo and Richardson 2018).

    A Keras layer: call it on a string, a list or a tensor of strings, eagerly, inside
    `tf.data.Dataset.map` or in a graph that is exported. `detokenize` works in graphs too. An
    unknown piece is written "⁇".

    Args:
        proto: bytes, a SentencePiece model, or the path of a `spiece.model`.
        special_tokens: dict from names to tokens: "start_token", "end_token", "pad_token",
            "unk_token", "mask_token", "cls_token" or "sep_token". By default those that the model
            itself names. `UnigramTokenizer.T5`, `.XLNET` and `.LLAMA` are those of these families.
        num_sentinels: int, how many sentinels `<extra_id_...>` stand behind the pieces; T5 has 100.
        keep_accents: bool. False: decompose characters, drop their accents and write \`\` and '' as
            ", all before the model sees the text, as XLNet does.
        **kwargs: `name` and other arguments of `keras.layers.Layer`.

    Raises:
        ValueError: the bytes are no SentencePiece model, or a special token is missing.
        FileNotFoundError: there is no such file.

    Example:
        >>> texts = ["the cat sat on the mat", "the dog sat on the log"] * 3
        >>> tokenizer = UnigramTokenizer.train(texts, 20, num_sentinels=2)
        >>> ids = tokenizer.encode("the cat")
        >>> tokenizer.decode([*ids, tokenizer.end_token_id])
        'the cat'
        >>> tokenizer.sentinel_ids
        (19, 18)
    """

    T5 = MappingProxyType({"pad_token": "<pad>", "end_token": "</s>", "unk_token": "<unk>"})
    XLNET = MappingProxyType(
        {
            "unk_token": "<unk>",
            "start_token": "<s>",
            "end_token": "</s>",
            "cls_token": "<cls>",
            "sep_token": "<sep>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        }
    )
    LLAMA = MappingProxyType({"unk_token": "<unk>", "start_token": "<s>", "end_token": "</s>"})

    def __init__(
        self,
        proto: bytes | str | Path | None = None,
        special_tokens: Mapping[str, str] | None = None,
        num_sentinels: int = 0,
        keep_accents: bool = True,
        **kwargs,
    ):
        # None: Keras is loading a file, and gives the model as an asset.
        model = None if proto is None else _parse(proto)
        if special_tokens is None:
            special_tokens = {} if model is None else _named(model)
        super().__init__(special_tokens, **kwargs)
        self.num_sentinels = num_sentinels
        self.keep_accents = keep_accents
        self.file_assets = [MODEL_FILE]
        self._decompose = _nfkd
        self.proto = None
        if model is not None:
            self._set_model(model)

    # === Training ===

    @classmethod
    def train(
        cls,
        corpus: Iterable[str],
        vocabulary_size: int = 8000,
        special_tokens: Mapping[str, str] = T5,
        num_sentinels: int = 0,
        keep_accents: bool = True,
        character_coverage: float = 1.0,
        normalization: str = "nmt_nfkc",
    ) -> "UnigramTokenizer":
        """Learns pieces and their probabilities.

        Args:
            corpus: a `keras_llm.corpora.Corpus`, or any iterable of strings; it is read once, line
                by line, and the trainer holds the different words in memory.
            vocabulary_size: int, how many tokens, the special ones and the sentinels included.
            special_tokens: as in the class; they get the first ids, in the order of the dict. One
                is the "unk_token".
            num_sentinels: as in the class.
            keep_accents: as in the class.
            character_coverage: float from 0.98 to 1, the share of the text that shall be known.
                With less than 1 the rarest are unknown: 0.9995 is usual for much text and for
                Chinese, where thousands of characters appear once and would fill the vocabulary.
            normalization: str, "nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf" (lowercase) or
                "identity", which keeps full-width and other compatible characters as they are.

        Returns:
            A tokenizer with `vocabulary_size` tokens. Where the text has too few different pieces,
            a warning says how many it gave.

        Raises:
            ValueError: the corpus holds no text, or the vocabulary is too small for its characters.
            TypeError: the corpus is a single string.

        Example:
            >>> tokenizer = UnigramTokenizer.train(["low lower lowest"] * 3, 14)
            >>> [tokenizer.id_to_token(i) for i in tokenizer.encode("lower")]
            ['▁lowe', 'r']
        """
        if "unk_token" not in special_tokens:
            raise ValueError("`special_tokens` needs an `unk_token`: a unigram model has one.")
        texts = training_texts(corpus)
        if not keep_accents:
            texts = (drop_accents(tf.constant(text)).numpy().decode() for text in texts)
        lines = (line for text in texts for line in text.splitlines())
        proto = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=lines,
                model_writer=proto,
                model_type="unigram",
                vocab_size=vocabulary_size - num_sentinels,
                hard_vocab_limit=False,
                character_coverage=character_coverage,
                normalization_rule_name=normalization,
                max_sentence_length=2**30,  # bytes; longer ones would be left out
                minloglevel=2,
                **_special_arguments(special_tokens),
            )
        except RuntimeError as error:  # how the trainer says all that is wrong
            raise ValueError(_explain(error, vocabulary_size)) from error
        tokenizer = cls(proto.getvalue(), special_tokens, num_sentinels, keep_accents)
        warn_if_small(tokenizer.vocabulary_size(), vocabulary_size)
        return tokenizer

    # === Text to ids ===

    def _tokenize(self, text: tf.Tensor) -> tf.RaggedTensor:
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")  # undecodable bytes: U+FFFD
        if not self.keep_accents:
            text = drop_accents(text, self._decompose)
        ids = self._pieces.tokenize(text)
        return ids if self._has_bytes else self._without_bytes(ids)

    def _without_bytes(self, ids: tf.RaggedTensor) -> tf.RaggedTensor:
        """Writes each run of bytes, which stand behind the vocabulary, as one unknown piece."""
        values, row = ids.values, ids.value_rowids()  # (all pieces,)
        is_byte = values >= len(self.vocabulary)
        goes_on = is_byte[1:] & is_byte[:-1] & (row[1:] == row[:-1])
        first = tf.concat([tf.ones_like(is_byte[:1]), ~goes_on], axis=0)
        ids = ids.with_values(tf.where(is_byte, self._unknown_id, values))
        return tf.ragged.boolean_mask(ids, ids.with_values(first))

    def _portable_engines(self) -> dict:
        engines = {"_pieces": MostProbable(self._model)}
        if not self.keep_accents:
            engines["_decompose"] = Replacements(decompositions("NFKD"))
        return engines

    # === Ids to text ===

    def _detokenize(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor | tf.RaggedTensor:
        if ids.shape.rank == 1:
            return self._detokenize(ids[tf.newaxis])[0]
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(ids, ragged_rank=ids.shape.rank - 1)
        shown = ids.with_flat_values(tf.gather(self._shown, ids.flat_values))
        return self._pieces.detokenize(tf.ragged.boolean_mask(ids, shown))

    # === Vocabulary ===

    def _continues(self, token: str) -> bool:
        return not token.startswith(("▁", "<extra_id_"))

    @property
    def sentinel_ids(self) -> tuple[int, ...]:
        """The ids of `<extra_id_0>`, `<extra_id_1>`, ..., in this order: the highest is first."""
        self._check_vocabulary()
        last = len(self.vocabulary) - 1
        return tuple(range(last, last - self.num_sentinels, -1))

    def _set_model(self, model):
        pieces = [piece.piece for piece in model.pieces]
        sentinels = [f"<extra_id_{i}>" for i in reversed(range(self.num_sentinels))]
        self._set_tokens((*pieces, *sentinels))
        self.proto = model.SerializeToString()
        for sentinel in sentinels:
            model.pieces.add(piece=sentinel, score=0, type=PIECE.CONTROL)
        if not model.normalizer_spec.precompiled_charsmap:
            model.normalizer_spec.precompiled_charsmap = NO_REPLACEMENTS
        hidden = self._hidden_ids()
        for id in hidden:
            model.pieces[id].type = PIECE.CONTROL  # no text gives it
        shown = np.full(len(model.pieces), True)
        shown[[*hidden, *self.sentinel_ids]] = False
        self._model = model.SerializeToString()
        self._has_bytes = model.trainer_spec.byte_fallback
        if not self._has_bytes:
            self._unknown_id = [piece.type for piece in model.pieces].index(PIECE.UNKNOWN)
            _add_bytes(model)
        with tf.init_scope():  # constants, never part of a caller's graph
            self._pieces = SentencepieceEngine(model.SerializeToString())
            self._shown = tf.constant(shown)

    def _merges_pairs(self) -> bool:
        return _parse(self.proto).trainer_spec.model_type == MODEL.BPE

    # === Files ===

    @classmethod
    def load(cls, directory: str | Path, **kwargs) -> "UnigramTokenizer":
        """Reads a tokenizer from a folder: one that `save` wrote, or of a published checkpoint.

        The folder holds `spiece.model` or `tokenizer.model`; or a `tokenizer.json` of the kind that
        `transformers` makes of such a model. The special tokens are those that
        `tokenizer_config.json` or `special_tokens_map.json` name, and otherwise the model itself.

        Args:
            directory: str or Path of the folder.
            **kwargs: arguments of the class that shall not be as the files say.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: the folder has none of these files.
            ValueError: `tokenizer.json` is of another kind.

        Example:
            >>> import tempfile
            >>> directory = tempfile.mkdtemp()
            >>> UnigramTokenizer.train(["low lower"] * 3, 20, num_sentinels=9).save(directory)
            >>> len(UnigramTokenizer.load(directory).sentinel_ids)
            9
        """
        directory = Path(directory)
        file = next((directory / f for f in MODEL_FILES if (directory / f).is_file()), None)
        if file is not None:
            model, found = _parse(file), _family_settings(directory)
        elif (directory / TOKENIZER_FILE).is_file():
            model, found = _read_tokenizer_file(directory / TOKENIZER_FILE)
        else:
            raise FileNotFoundError(
                f"There is no SentencePiece model in {directory}. Expected one of "
                f"{', '.join((*MODEL_FILES, TOKENIZER_FILE))}."
            )
        specials = {**_named(model), **read_special_tokens(directory)}
        return cls(model.SerializeToString(), **{"special_tokens": specials, **found, **kwargs})

    def save(self, directory: str | Path) -> None:
        """Writes `spiece.model` and `tokenizer_config.json`, as T5's and XLNet's.

        A model that merges pairs is written as Llama 2's, `tokenizer.model`.

        Args:
            directory: str or Path, made when missing.

        Raises:
            NotADirectoryError: a file is in the way.

        Example:
            >>> import tempfile
            >>> directory = Path(tempfile.mkdtemp())
            >>> UnigramTokenizer.train(["low lower"] * 3, 10).save(directory)
            >>> sorted(file.name for file in directory.iterdir())
            ['spiece.model', 'tokenizer_config.json']
        """
        super().save(directory)
        if self._merges_pairs():
            os.replace(Path(directory) / MODEL_FILE, Path(directory) / LLAMA_FILE)

    def save_assets(self, dir_path: str | Path) -> None:
        """Writes `spiece.model` into a `.keras` file or a preset; Keras calls it."""
        self._check_vocabulary()
        write(Path(dir_path) / MODEL_FILE, self.proto)

    def load_assets(self, dir_path: str | Path) -> None:
        """Reads it back; Keras calls it."""
        self._set_model(_parse(Path(dir_path) / MODEL_FILE))

    def get_config(self) -> dict:
        """Returns the arguments but the model, which is saved as an asset."""
        return {
            **super().get_config(),
            "special_tokens": {name: getattr(self, name) for name in self._special_token_attrs},
            "num_sentinels": self.num_sentinels,
            "keep_accents": self.keep_accents,
        }

    def _hugging_face_config(self) -> dict:
        if self._merges_pairs():
            return {"tokenizer_class": "LlamaTokenizer"}
        if hasattr(self, "mask_token"):
            return {"tokenizer_class": "XLNetTokenizer", "keep_accents": self.keep_accents}
        return {"tokenizer_class": "T5Tokenizer", "extra_ids": self.num_sentinels}

    def __reduce__(self):
        config = self.get_config()
        names = ("special_tokens", "num_sentinels", "keep_accents")
        return type(self), (self.proto, *(config[name] for name in names))


_nfkd = functools.partial(tensorflow_text.normalize_utf8, normalization_form="NFKD")


def drop_accents(text: tf.Tensor, decompose=_nfkd) -> tf.Tensor:
    """Decomposes characters, drops accents and writes two quotation marks as one, as XLNet does.

    Args:
        text: string tensor of any shape.
        decompose: what takes characters apart.

    Returns:
        String tensor of the same shape.

    Example:
        >>> drop_accents(tf.constant("``été''")).numpy()
        b'"ete"'
    """
    text = tf.strings.regex_replace(text, "``|''", '"')
    return tf.strings.regex_replace(decompose(text), r"\p{Mn}", "")


def _parse(proto):
    """Reads a SentencePiece model, bytes or a file."""
    if isinstance(proto, (str, Path)):
        path = Path(proto)
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no SentencePiece model at {path}. It should be a file such as the "
                "`spiece.model` that `UnigramTokenizer.save` writes."
            )
        proto = path.read_bytes()
    try:
        model = sentencepiece_model_pb2.ModelProto.FromString(proto)
    except DecodeError as error:
        raise ValueError("These bytes are no SentencePiece model.") from error
    if model.trainer_spec.model_type not in (MODEL.UNIGRAM, MODEL.BPE):
        raise ValueError(
            "This SentencePiece model cuts text into words or characters. Expected one of type "
            "unigram or BPE."
        )
    return model


def _add_bytes(model):
    """Lets a model fall back to bytes.

    The engine joins unknown characters that follow each other, one by one, and copies all that it
    has joined each time: of a megabyte in a foreign script it would make half a minute.
    """
    for byte in range(256):
        model.pieces.add(piece=f"<0x{byte:02X}>", score=0, type=PIECE.BYTE)
    model.trainer_spec.byte_fallback = True


def _named(model) -> dict[str, str]:
    """The special tokens that a model names: by its trainer's settings, or by custom."""
    trainer = model.trainer_spec
    ids = {
        "start_token": trainer.bos_id,
        "end_token": trainer.eos_id,
        "pad_token": trainer.pad_id,
        "unk_token": trainer.unk_id,
    }
    named = {name: model.pieces[id].piece for name, id in ids.items() if id >= 0}
    special = {p.piece for p in model.pieces if p.type in (PIECE.CONTROL, PIECE.USER_DEFINED)}
    for role in ("pad", "cls", "sep", "mask"):
        for token in (f"<{role}>", f"[{role.upper()}]"):
            if token in special:
                named.setdefault(f"{role}_token", token)
    return named


def _special_arguments(special_tokens: Mapping[str, str]) -> dict:
    """The trainer's arguments for special tokens, which get the first ids in their order."""
    roles = {"start_token": "bos", "end_token": "eos", "pad_token": "pad", "unk_token": "unk"}
    ids = {token: id for id, token in enumerate(dict.fromkeys(special_tokens.values()))}
    arguments = dict.fromkeys((f"{role}_id" for role in roles.values()), -1)
    others = dict(ids)
    for name, role in roles.items():
        token = special_tokens.get(name)
        if others.pop(token, None) is not None:
            arguments |= {f"{role}_id": ids[token], f"{role}_piece": token}
    return {**arguments, "control_symbols": list(others)}


def _explain(error: RuntimeError, vocabulary_size: int) -> str:
    """Says what the trainer's error means."""
    said = str(error)
    if "required_chars" in said:
        return (
            f"A vocabulary of {vocabulary_size} tokens is too small for the characters of this "
            "text and the special tokens. Ask for more tokens, or for a lower "
            f"`character_coverage`. The trainer said: {said}"
        )
    if NO_TEXT in said or "all_chars_count" in said:
        return NO_TEXT
    return f"SentencePiece could not learn from this text. The trainer said: {said}"


def _family_settings(directory: Path) -> dict:
    """What a checkpoint's files say, or its family implies: T5 has sentinels, XLNet no accents."""
    config = read_json(directory / CONFIG_FILE)
    family = config.get("tokenizer_class") or ""
    family = family or read_json(directory / "config.json").get("model_type", "")
    return {
        "num_sentinels": config.get("extra_ids", 100 if family in T5_NAMES else 0),
        "keep_accents": config.get("keep_accents", family not in XLNET_NAMES),
    }


def _read_tokenizer_file(path: Path):
    """Makes a model of the `tokenizer.json` that `transformers` made of one, and its settings."""
    content = read_json(path)
    pieces = [piece for piece in content["model"]["vocab"] if not _SENTINEL.fullmatch(piece[0])]
    sentinels = {t["content"] for t in content["added_tokens"] if _SENTINEL.fullmatch(t["content"])}
    steps = {step["type"] for kind in _STEPS for step in _steps(content[kind])}
    if content["model"].get("type") != "Unigram" or not steps <= _KNOWN_STEPS:
        raise ValueError(
            f"{path} is no tokenizer made of a SentencePiece unigram model: its steps are "
            f"{', '.join(sorted(steps))}. Expected some of {', '.join(sorted(_KNOWN_STEPS))}."
        )
    model = sentencepiece_model_pb2.ModelProto()
    special = {token["id"] for token in content["added_tokens"] if token["special"]}
    for id, (piece, score) in enumerate(pieces):
        kind = PIECE.CONTROL if id in special else PIECE.NORMAL
        model.pieces.add(piece=piece, score=score, type=kind)
    unknown = content["model"]["unk_id"]
    model.pieces[unknown].type = PIECE.UNKNOWN
    model.trainer_spec.model_type = MODEL.UNIGRAM
    model.trainer_spec.unk_id, model.trainer_spec.unk_piece = unknown, model.pieces[unknown].piece
    names = {piece: id for id, (piece, _) in enumerate(pieces)}
    model.trainer_spec.bos_id = names.get("<s>", -1)
    model.trainer_spec.eos_id = names.get("</s>", -1)
    model.trainer_spec.pad_id = names.get("<pad>", -1)
    for step in _steps(content["normalizer"]):
        if step["type"] == "Precompiled":
            charsmap = base64.b64decode(step["precompiled_charsmap"])
            model.normalizer_spec.precompiled_charsmap = charsmap
    return model, {"num_sentinels": len(sentinels), "keep_accents": "StripAccents" not in steps}


# What `transformers` writes for T5 and XLNet. SentencePiece's model says the same in its settings,
# but for the accents, which XLNet drops by itself.
_STEPS = ("normalizer", "pre_tokenizer")
_KNOWN_STEPS = {
    *("Replace", "NFKD", "StripAccents", "Strip", "Precompiled"),
    *("WhitespaceSplit", "Metaspace"),
}


def _steps(step: dict | None) -> list[dict]:
    """The steps of a normalizer or pre-tokenizer, which may be one, a sequence or none."""
    if step is None:
        return []
    return step.get("normalizers") or step.get("pretokenizers") or [step]

"""WordPiece vocabularies of published models: `vocab.txt`, or all in `tokenizer.json`."""

import json

from keras_llm.tokenizers import WordPieceTokenizer

WORDPIECE_FILES = ("vocab.txt", "tokenizer.json")


def load_wordpiece(folder):
    """Reads the tokenizer of BERT and its relatives.

    Args:
        folder: Path with one of `WORDPIECE_FILES`.

    Returns:
        `WordPieceTokenizer`.
    """
    if (folder / "vocab.txt").is_file():
        return WordPieceTokenizer.load(folder)
    settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = settings["model"]["vocab"]
    lowercase = settings["normalizer"]["lowercase"]
    return WordPieceTokenizer(sorted(ids, key=ids.get), lowercase=lowercase)

"""Next-sentence pairs, after the recipe of BERT (Devlin et al. 2018, appendix A.2).

Notable: the corpus is streamed in blocks of documents, and a random second segment comes from
    another
document of the block. So memory does not grow with the corpus, and what a block gives depends on
nothing but (seed, epoch, number of the block): any number of processes makes the same pairs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from keras_llm import corpora

# A block ends at whichever comes first: enough documents to choose a random segment from.
BLOCK_DOCUMENTS = 64
BLOCK_CHARACTERS = 500_000
SHORT_PROBABILITY = 0.1
RANDOM_PROBABILITY = 0.5
NUM_SPECIALS = 3  # [CLS] first [SEP] second [SEP]


class SentencePair(NamedTuple):
    """Two segments of text as ids, without special tokens.

    Args:
        first: int32 array `(tokens,)`.
        second: int32 array `(tokens,)`.
        follows: bool, True where `second` stands right after `first` in the text.
    """

    first: np.ndarray
    second: np.ndarray
    follows: bool


@dataclass(frozen=True)
class _Document:
    id: str
    sentences: list[np.ndarray]  # ids, none empty


def sentence_pairs(
    corpus: Iterable[corpora.Document],
    tokenizer,
    sequence_length: int = 128,
    seed: int = 0,
    epoch: int = 0,
) -> Iterator[SentencePair]:
    """Streams pairs of segments, in half of which the second does not follow the first.

    A pair takes as many whole sentences of a document as fill `sequence_length` tokens, cut in two
    at a random place. With probability 0.1 it aims at a random shorter length, to resemble the
    short inputs of fine-tuning. With probability 0.5 the second segment is replaced by one from
    another document, and the sentences so left unused start the next pair. What is too long is cut
    at either end of the longer segment.

    Where a document's last sentence is left alone it has no next, so slightly fewer than half of
    the pairs follow. This and drawing the shorter length for each pair, not each document, are our
    only changes to the recipe.

    Args:
        corpus: a `keras_llm.corpora.Corpus`, or any other iterable of objects with `.text` and
            `.id` that can be read again from the start.
        tokenizer: callable from a list of strings to ragged ids, as `WordPieceTokenizer`.
        sequence_length: int, tokens of a pair with its three special tokens at most.
        seed: int.
        epoch: int, other pairs of the same corpus for each.

    Yields:
        `SentencePair`.

    Raises:
        TypeError: the corpus can be read only once.
        ValueError: the corpus has no text, or only one document; or `sequence_length` is below 5.

    Example:
        >>> from keras_llm.corpora import Document
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> texts = ["A cat sat. It purred.", "Rain fell. It was cold."]
        >>> corpus = [Document(text, id=str(i)) for i, text in enumerate(texts)]
        >>> tokenizer = WordPieceTokenizer.train(texts * 9, 52)
        >>> for first, second, follows in sentence_pairs(corpus, tokenizer, 16, seed=3):
        ...     print(tokenizer.decode(first), "|", tokenizer.decode(second), "|", follows)
        a cat sat. | it purred. | True
        rain fell. | a cat sat. it purred. | False
        it was cold. | a cat sat. it purred. | False
    """
    for block in pair_blocks(corpus, tokenizer, sequence_length, seed, epoch):
        yield from block.pairs


class PairBlock(NamedTuple):
    """The pairs of one block of documents; `number` counts blocks from 0."""

    number: int
    num_documents: int
    pairs: Iterator[SentencePair]


def pair_blocks(
    corpus: Iterable[corpora.Document],
    tokenizer,
    sequence_length: int,
    seed: int = 0,
    epoch: int = 0,
    wanted: Callable[[int], bool] = lambda number: True,
) -> Iterator[PairBlock]:
    """Streams the pairs of `sentence_pairs` block by block.

    Args:
        corpus: as in `sentence_pairs`.
        tokenizer: as in `sentence_pairs`.
        sequence_length: int, as in `sentence_pairs`.
        seed: int.
        epoch: int.
        wanted: from the number of a block to bool: whether to make its pairs; the others are only
            read.

    Yields:
        `PairBlock`.

    Raises:
        TypeError: as in `sentence_pairs`.
        ValueError: as in `sentence_pairs`.
    """
    if sequence_length < NUM_SPECIALS + 2:
        raise ValueError(
            f"sequence_length={sequence_length} leaves no room for two segments beside [CLS] and "
            f"two [SEP]. It must be at least {NUM_SPECIALS + 2}; 128 is usual."
        )
    language = getattr(corpus, "language", None) or "en"
    strangers = find_two_documents(corpus, tokenizer)
    for number, texts in enumerate(_blocks(corpus)):
        if wanted(number):
            rng = np.random.default_rng([seed, epoch, number])
            documents = _tokenize(texts, tokenizer, language)
            pairs = _block_pairs(documents, strangers, sequence_length - NUM_SPECIALS, rng)
            yield PairBlock(number, len(texts), pairs)


def find_two_documents(corpus: Iterable[corpora.Document], tokenizer) -> list[_Document]:
    """Reads as far as two documents with text: the least that next-sentence pairs need.

    They also lend a random segment to a block that holds one (over-long) document only.

    Args:
        corpus: as in `sentence_pairs`.
        tokenizer: as in `sentence_pairs`.

    Returns:
        Two documents with different ids.

    Raises:
        TypeError: the corpus can be read only once.
        ValueError: the corpus has no text, or only one document.
    """
    if iter(corpus) is corpus:
        raise TypeError(
            "This corpus is an iterator, which can be read only once; examples need it several "
            "times. Pass a `keras_llm.corpora.Corpus` or a list of documents."
        )
    language = getattr(corpus, "language", None) or "en"
    found = {}
    for text in corpus:
        if text.id not in found:
            (document,) = _tokenize([text], tokenizer, language)
            if document.sentences:
                found[text.id] = document
        if len(found) == 2:
            return list(found.values())
    name = getattr(corpus, "name", "The corpus")
    if not found:
        raise ValueError(f"{name} is empty: it has no document with any text.")
    raise ValueError(
        f"{name} has one document only. Next-sentence pairs need at least two, to take a random "
        "sentence from another one. Separate documents by blank lines, or give each its own file."
    )


def _blocks(corpus: Iterable[corpora.Document]) -> Iterator[list[corpora.Document]]:
    block, characters = [], 0
    for document in corpus:
        block.append(document)
        characters += len(document.text)
        if len(block) == BLOCK_DOCUMENTS or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _tokenize(documents: Sequence[corpora.Document], tokenizer, language: str) -> list[_Document]:
    """Cuts documents into sentences and all of these into ids with one call."""
    sentences = [corpora.sentences(document.text, language) for document in documents]
    ids = tokenizer([sentence for document in sentences for sentence in document])
    rows = np.split(ids.values.numpy(), ids.row_splits.numpy()[1:-1]) if any(sentences) else []
    rows = iter(rows)
    return [
        _Document(document.id, [row for _ in own if len(row := next(rows)) > 0])
        for document, own in zip(documents, sentences, strict=True)
    ]


def _block_pairs(
    documents: list[_Document],
    strangers: list[_Document],
    max_tokens: int,
    rng: np.random.Generator,
) -> Iterator[SentencePair]:
    for document in documents:
        others = [other for other in documents if other.id != document.id and other.sentences]
        others = others or [other for other in strangers if other.id != document.id]
        yield from _document_pairs(document.sentences, others, max_tokens, rng)


def _document_pairs(
    sentences: list[np.ndarray],
    others: list[_Document],
    max_tokens: int,
    rng: np.random.Generator,
) -> Iterator[SentencePair]:
    start = 0
    while start < len(sentences):
        short = rng.random() < SHORT_PROBABILITY
        target = rng.integers(2, max_tokens, endpoint=True) if short else max_tokens
        follows = bool(rng.random() >= RANDOM_PROBABILITY)
        chunk = _fill(sentences, start, target, at_least=2 if follows else 1)
        follows = follows and len(chunk) > 1
        # The first segment has one sentence or more; what is left is the second, or is put back.
        cut = rng.integers(1, len(chunk)) if len(chunk) > 1 else 1
        first = np.concatenate(chunk[:cut])
        if follows:
            second = np.concatenate(chunk[cut:])
            start += len(chunk)
        else:
            other = others[rng.integers(len(others))].sentences
            second = np.concatenate(_fill(other, rng.integers(len(other)), target - len(first)))
            start += cut
        yield SentencePair(*_truncate(first, second, max_tokens, rng), follows)


def _fill(
    sentences: list[np.ndarray], start: int, target: int, at_least: int = 1
) -> list[np.ndarray]:
    """Takes sentences from `start` on, `at_least` so many, until they have `target` tokens."""
    chunk, length = [], 0
    for sentence in sentences[start:]:
        if length >= target and len(chunk) >= at_least:
            break
        chunk.append(sentence)
        length += len(sentence)
    return chunk


def _truncate(
    first: np.ndarray, second: np.ndarray, max_tokens: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the longer segment until both fit, each token at the front or the back by chance."""
    keep_first = min(len(first), max(max_tokens - len(second), (max_tokens + 1) // 2))
    keep_second = min(len(second), max_tokens - keep_first)
    cut = []
    for segment, keep in ((first, keep_first), (second, keep_second)):
        front = rng.binomial(len(segment) - keep, 0.5)
        cut.append(segment[front : front + keep])
    return tuple(cut)

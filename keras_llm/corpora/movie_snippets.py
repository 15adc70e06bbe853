"""Snippets of film reviews with the mean sentiment that twenty people heard in each.

From the experiments of Hutto and Gilbert (2014), "VADER: A Parsimonious Rule-based Model for
Sentiment Analysis of Social Media Text"; inside the source distribution of `vaderSentiment`.
"""

import html
from collections.abc import Iterator

from keras_llm.corpora.corpus import Corpus, Document
from keras_llm.corpora.packages import Member, Package

VADER_SENTIMENT = Package(
    name="vaderSentiment",
    version="3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    members={
        "movie_snippets.txt": Member(
            (
                "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
                "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
            ),
            sha256="c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
        )
    },
)


def sentiment_label(sentiment: float) -> str:
    """Names a mean sentiment.

    Args:
        sentiment: float, from -4 (extremely negative) to 4 (extremely positive).

    Returns:
        "positive" above 0.5, "negative" below -0.5, otherwise "neutral".

    Example:
        >>> sentiment_label(0.6), sentiment_label(0.5), sentiment_label(-3.1)
        ('positive', 'neutral', 'negative')
    """
    if sentiment > 0.5:
        return "positive"
    return "negative" if sentiment < -0.5 else "neutral"


def read_movie_snippets() -> Iterator[Document]:
    """Streams the snippets.

    Returns:
        Iterator of `Document` with metadata `sentiment` (float) and `label`.

    Raises:
        ConnectionError: if the data are not cached and cannot be fetched.
        ValueError: if what the index offers has another hash.
    """
    path = VADER_SENTIMENT.path("movie_snippets.txt")
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            number, mean, text = line.rstrip("\n").split("\t")
            metadata = {"sentiment": float(mean), "label": sentiment_label(float(mean))}
            yield Document(html.unescape(text), metadata, id=number)  # the source writes &amp;


MOVIE_SNIPPETS = Corpus(
    name="movie_snippets",
    read=read_movie_snippets,
    description="Snippets of English film reviews with their mean sentiment from -4 to 4, as "
    "people judged it, and a label: positive, negative or neutral.",
    language="en",
    licence="MIT",
    source="PyPI package vaderSentiment 3.3.2 (source distribution)",
    num_documents=10_605,
    package=VADER_SENTIMENT,
)

"""Retrieval: the passages of a corpus that a question is about, and its answer in them.

Notable:

- a document is cut into passages of whole sentences that overlap by one, so that no sentence is
  torn and none stands without a neighbour; a passage knows where it starts in its document;
- the search is exact: scikit-learn compares a question with every passage. That is one product of
  matrices, quick up to some millions of passages;
- with a reader, a `QuestionAnswerer`, a question is asked of the whole corpus ("Reading Wikipedia
  to Answer Open-Domain Questions", Chen et al. 2017).
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from sklearn.neighbors import NearestNeighbors

from keras_llm.corpora import sentences
from keras_llm.storage import whole_folder
from keras_llm.tasks.text_task import as_strings

PASSAGES_FILE = "passages.jsonl"
VECTORS_FILE = "vectors.npy"
EMBEDDER_FILE = "embedder.keras"


@dataclass(frozen=True)
class Passage:
    """A piece of a document.

    Args:
        text: str.
        source: str, the `id` of the document.
        start: int, the character of the document at which the passage starts.

    Example:
        >>> Passage("We have fought.", source="1815 James Madison", start=120).source
        '1815 James Madison'
    """

    text: str
    source: str = ""
    start: int = 0


@dataclass(frozen=True)
class Found:
    """A passage that a search found, and, where it was asked for, the answer in it.

    Args:
        passage: `Passage`.
        similarity: float, the cosine between the vectors of the query and of the passage.
        answer: str, the answer; "" where there is none or none was asked for.
        start: int, the character of the passage at which the answer starts.
        score: float, by how much the answer scores more than no answer.

    Example:
        >>> Found(Passage("Ada came."), similarity=0.5).answer
        ''
    """

    passage: Passage
    similarity: float
    answer: str = ""
    start: int = 0
    score: float = 0.0


def cut_into_passages(text: str, language: str, num_words: int = 100) -> list[tuple[str, int]]:
    """Cuts a text into passages of whole sentences; each begins with the last of the one before.

    A sentence that is as long as a passage by itself is not repeated.

    Args:
        text: str.
        language: str, ISO 639-1 code such as "en" or "zh".
        num_words: int, of at least how many words a passage is, the last one excepted; in Chinese,
            characters.

    Returns:
        List of pairs: the passage, a span of the text, and the character at which it starts.

    Raises:
        ValueError: `num_words` is less than 1.

    Example:
        >>> cut_into_passages("It rains. It pours. Ada sleeps.", "en", num_words=4)
        [('It rains. It pours.', 0), ('It pours. Ada sleeps.', 10)]
    """
    if num_words < 1:
        raise ValueError(f"num_words={num_words} must be at least 1.")
    spans, end = [], 0
    for sentence in sentences(text, language):
        start = text.index(sentence, end)
        end = start + len(sentence)
        spans.append((start, end, len(sentence if language == "zh" else sentence.split())))
    passages, first = [], 0
    while first < len(spans):
        last, words = first, spans[first][2]
        while words < num_words and last + 1 < len(spans):
            last += 1
            words += spans[last][2]
        passages.append((text[spans[first][0] : spans[last][1]], spans[first][0]))
        if last + 1 == len(spans):
            break
        # The last sentence leads over, unless it is as long as a passage by itself.
        first = last if first < last and spans[last][2] < num_words else last + 1
    return passages


class Retriever:
    """Finds the passages whose vectors are nearest to that of a query.

    Args:
        embedder: `TextEmbedder`.
        passages: iterable of `Passage`.
        vectors: float32 (passages, features), the vectors of the passages; by default the embedder
            makes them.
        batch_size: int, passages a step.
        verbose: as in `keras.Model.predict`.

    Raises:
        ValueError: there are no passages, or not as many vectors.

    Example:
        >>> from keras_llm.models import BertBackbone
        >>> from keras_llm.tasks import TextEmbedder
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> keras.utils.set_random_seed(0)
        >>> tokenizer = WordPieceTokenizer.train(["Ada came.", "Max left."] * 4, 28)
        >>> embedder = TextEmbedder(BertBackbone.tiny(28), tokenizer)
        >>> retriever = Retriever(embedder, [Passage("Ada came."), Passage("Max left.")])
        >>> retriever.search(["Max left."], k=1)[0][0].passage.text
        'Max left.'
    """

    def __init__(self, embedder, passages, vectors=None, batch_size=32, verbose=0):
        self.embedder = embedder
        self.passages = list(passages)
        if not self.passages:
            raise ValueError("There are no passages to search. Check the corpus, or its part.")
        if vectors is None:
            texts = [passage.text for passage in self.passages]
            vectors = embedder.predict(texts, batch_size=batch_size, verbose=verbose)
        if len(vectors) != len(self.passages):
            raise ValueError(
                f"There must be one vector for each passage; got {len(vectors)} vectors, "
                f"{len(self.passages)} passages."
            )
        self.vectors = vectors
        self._neighbours = NearestNeighbors(metric="cosine", algorithm="brute").fit(vectors)

    @classmethod
    def from_corpus(cls, embedder, corpus: Iterable, num_words=100, language=None, **kwargs):
        """Cuts the documents of a corpus into passages and embeds them.

        Args:
            embedder: `TextEmbedder`.
            corpus: `corpora.Corpus`, or another iterable of `corpora.Document`.
            num_words: int, see `cut_into_passages`.
            language: str, ISO 639-1 code; by default that of the corpus, or "en".
            **kwargs: `batch_size`, `verbose`.

        Returns:
            A `Retriever`. The `source` of a passage is the `id` of its document.

        Example:
            >>> from keras_llm import corpora
            >>> from keras_llm.models import BertBackbone
            >>> from keras_llm.tasks import TextEmbedder
            >>> from keras_llm.tokenizers import WordPieceTokenizer
            >>> documents = [corpora.Document("Ada came. Max left.", id="a"), ]
            >>> tokenizer = WordPieceTokenizer.train([documents[0].text] * 4, 28)
            >>> embedder = TextEmbedder(BertBackbone.tiny(28), tokenizer)
            >>> Retriever.from_corpus(embedder, documents, num_words=2).passages[1]
            Passage(text='Max left.', source='a', start=10)
        """
        language = language or getattr(corpus, "language", None) or "en"
        passages = [
            Passage(text, document.id, start)
            for document in corpus
            for text, start in cut_into_passages(document.text, language, num_words)
        ]
        return cls(embedder, passages, **kwargs)

    def search(self, queries, k=5):
        """Finds the nearest passages.

        Args:
            queries: list of str.
            k: int, how many passages for each.

        Returns:
            For each query a list of `Found`, the nearest first.

        Raises:
            ValueError: no queries, or `k` is less than 1.
            TypeError: a single string, or a list of something else than strings.
        """
        if k < 1:
            raise ValueError(f"k={k} must be at least 1.")
        queries = self.embedder.predict(as_strings(queries, "queries"))
        distances, numbers = self._neighbours.kneighbors(queries, min(k, len(self.passages)))
        return [
            [Found(self.passages[i], 1.0 - float(d)) for d, i in zip(*row, strict=True)]
            for row in zip(distances, numbers, strict=True)
        ]

    def ask(self, question, reader, k=5):
        """Answers a question from the whole corpus: finds passages and reads them.

        Args:
            question: str.
            reader: `QuestionAnswerer`.
            k: int, how many passages are read.

        Returns:
            List of `Found`, those with an answer first, the surest of them first of all. Of all
            passages the scores can be compared, for each is the lead over no answer.

        Raises:
            TypeError: the question is no string.
        """
        if not isinstance(question, str):
            raise TypeError(f"The question is {question!r}, not a string.")
        (found,) = self.search([question], k)
        read = reader.predict([question] * len(found), [f.passage.text for f in found], verbose=0)
        read = zip(found, read["answer"], read["start"], read["score"], strict=True)
        found = [
            Found(f.passage, f.similarity, str(answer), int(start), float(score))
            for f, answer, start, score in read
        ]
        return sorted(found, key=lambda f: (f.answer != "", f.score), reverse=True)

    def save(self, folder):
        """Writes passages, vectors and the embedder into a folder that appears when it is whole.

        Args:
            folder: str or Path; not there yet, or empty.

        Raises:
            FileExistsError: the folder holds something.

        Example:
            >>> from keras_llm.models import BertBackbone
            >>> from keras_llm.tasks import TextEmbedder
            >>> from keras_llm.tokenizers import WordPieceTokenizer
            >>> tokenizer = WordPieceTokenizer.train(["Ada came."] * 4, 20)
            >>> embedder = TextEmbedder(BertBackbone.tiny(20), tokenizer)
            >>> import tempfile
            >>> folder = Path(tempfile.mkdtemp()) / "speeches"
            >>> Retriever(embedder, [Passage("Ada came.")]).save(folder)
            >>> Retriever.load(folder).search(["Ada"])[0][0].passage.text
            'Ada came.'
        """
        with whole_folder(folder) as partial:
            with open(partial / PASSAGES_FILE, "w", encoding="utf-8") as lines:
                for passage in self.passages:
                    lines.write(json.dumps(asdict(passage), ensure_ascii=False) + "\n")
            np.save(partial / VECTORS_FILE, self.vectors)
            self.embedder.save(partial / EMBEDDER_FILE)

    @classmethod
    def load(cls, folder):
        """Reads what `save` wrote.

        Args:
            folder: str or Path.

        Returns:
            A `Retriever` that finds the same.

        Raises:
            FileNotFoundError: the folder is none that `save` wrote.
        """
        folder = Path(folder)
        if not (folder / PASSAGES_FILE).is_file():
            raise FileNotFoundError(f"{folder} holds no retriever: {PASSAGES_FILE} is missing.")
        with open(folder / PASSAGES_FILE, encoding="utf-8") as lines:
            passages = [Passage(**json.loads(line)) for line in lines]
        embedder = keras.models.load_model(folder / EMBEDDER_FILE)
        return cls(embedder, passages, np.load(folder / VECTORS_FILE))

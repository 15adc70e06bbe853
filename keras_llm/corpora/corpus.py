"""Documents, and the corpus that streams them.

Notable: a corpus holds no text, only the function that reads it. It can therefore be iterated any
number of times, sent to worker processes, and be far larger than memory. Its parts (train,
validation, test) are chosen by a hash of each document's text: order and size of the corpus change
nothing, and copies of one document land on the same side.
"""

import hashlib
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from keras_llm.corpora.packages import Package


@dataclass(frozen=True)
class Document:
    r"""One text with what is known about it.

    Args:
        text: str, the text. Lines are separated by "\n".
        metadata: dict, what the source tells about the text, such as author, year or label.
        id: str, the document's name, unique within its corpus.
        part: int. An over-long document arrives as several `Document`s with the same `id`, numbered
            from 0 and one after the other.

    Example:
        >>> Document("Hello, world!", {"language": "en"}, id="greeting").metadata["language"]
        'en'
    """

    text: str
    metadata: dict = field(default_factory=dict)
    id: str = ""
    part: int = 0


class HashRange(NamedTuple):
    """The documents whose hash under `seed`, a number in [0, 1), lies in [start, stop)."""

    seed: int
    start: float
    stop: float

    def contains(self, text: str, depth: int) -> bool:
        """Whether `text` is chosen; `depth` makes the split of a split independent of the first."""
        key = f"{self.seed}/{depth}".encode()
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=key)
        return self.start <= int.from_bytes(digest.digest()) / 2**64 < self.stop


class Split(NamedTuple):
    """The three parts of a corpus, each a `Corpus`: disjoint, and together the whole."""

    train: "Corpus"
    validation: "Corpus"
    test: "Corpus"


@dataclass(frozen=True, repr=False, eq=False)
class Corpus:
    """A stream of documents that knows where it comes from and how it may be used.

    Args:
        name: str.
        read: callable without arguments that returns a new iterator of `Document`. To send the
            corpus to other processes it must be picklable: a module's function, or a
            `functools.partial` of one.
        description: str, one or two sentences.
        language: str, ISO 639-1 code such as "en" or "zh", or None if unknown.
        licence: str, or None if unknown.
        source: str, where the text comes from, with its version.
        num_documents: int, or None if nobody has counted.
        package: the `Package` that is fetched on first use, or None.
        ranges: tuple of `HashRange`; set by `split`.

    Example:
        >>> from functools import partial
        >>> documents = [Document("To be, or not to be."), Document("All the world's a stage.")]
        >>> corpus = Corpus("quotes", partial(iter, documents), language="en")
        >>> list(corpus.texts())
        ['To be, or not to be.', "All the world's a stage."]
    """

    name: str
    read: Callable[[], Iterator[Document]]
    description: str = ""
    language: str | None = None
    licence: str | None = None
    source: str = ""
    num_documents: int | None = None
    package: "Package | None" = None
    ranges: tuple[HashRange, ...] = ()

    def __iter__(self) -> Iterator[Document]:
        for document in self.read():
            if document.part == 0:  # the further parts follow the first
                chosen = all(
                    hash_range.contains(document.text, depth)
                    for depth, hash_range in enumerate(self.ranges)
                )
            if chosen:
                yield document

    def texts(self) -> Iterator[str]:
        """Streams the texts alone.

        Returns:
            Iterator of str.

        Example:
            >>> from keras_llm import corpora
            >>> next(corpora.load("state_of_the_union").texts())[:16]
            'Fellow-Citizens '
        """
        return (document.text for document in self)

    def map(self, function: Callable[[str], str]) -> "Corpus":
        """Changes each text by a function, whenever the corpus is read.

        Args:
            function: callable from str to str. To send the corpus to other processes it must be
                picklable: a module's function, or a `functools.partial` of one.

        Returns:
            `Corpus` of the same documents with changed texts. Its parts are chosen by the changed
            texts.

        Example:
            >>> from keras_llm import corpora
            >>> speeches = corpora.load("state_of_the_union").map(str.upper)
            >>> next(speeches.texts())[:15]
            'FELLOW-CITIZENS'
        """
        return replace(self, read=partial(_map_texts, self.read, function))

    def split(self, validation: float = 0.05, test: float = 0.05, seed: int = 0) -> Split:
        """Splits by document into train, validation and test.

        Args:
            validation: float, the fraction of documents to expect in the validation part.
            test: float, the fraction of documents to expect in the test part.
            seed: int, another seed gives another split.

        Returns:
            `Split` of three corpora. The same document is always in the same part, whatever else
            the corpus contains.

        Raises:
            ValueError: if the fractions leave nothing to train on.

        Example:
            >>> from keras_llm import corpora
            >>> parts = corpora.load("state_of_the_union").split(validation=0.1, test=0.2)
            >>> [len(list(part)) for part in parts]
            [168, 25, 40]
        """
        if validation < 0 or test < 0 or validation + test >= 1:
            raise ValueError(
                f"validation={validation} and test={test} must be fractions of at least 0 that add "
                "up to less than 1; the rest is for training."
            )
        return Split(
            train=self._part("train", HashRange(seed, test + validation, 1.0)),
            validation=self._part("validation", HashRange(seed, test, test + validation)),
            test=self._part("test", HashRange(seed, 0.0, test)),
        )

    def _part(self, name: str, hash_range: HashRange) -> "Corpus":
        return replace(
            self,
            name=f"{self.name}[{name}]",
            num_documents=None,
            ranges=(*self.ranges, hash_range),
        )

    @property
    def train(self) -> "Corpus":
        """The training part of the default split, about 90 % of the documents."""
        return self.split().train

    @property
    def validation(self) -> "Corpus":
        """The validation part of the default split, about 5 % of the documents."""
        return self.split().validation

    @property
    def test(self) -> "Corpus":
        """The test part of the default split, about 5 % of the documents."""
        return self.split().test

    def labelled(
        self, field: str = "label", classes: Iterable[str] | None = None
    ) -> tuple[list[str], list[str]]:
        """Collects texts and labels, as `fit` and `evaluate` of a classifier want them.

        Args:
            field: str, the metadata that is the label.
            classes: the labels to keep, each a str. All by default.

        Returns:
            Tuple of two lists of str of the same length, texts and labels.

        Raises:
            ValueError: if no document has the field, or none has one of the classes.

        Example:
            >>> from keras_llm import corpora
            >>> speeches = corpora.load("state_of_the_union")
            >>> texts, labels = speeches.labelled("party", classes=("Whig", "Federalist"))
            >>> len(texts), labels[0]
            (8, 'Federalist')
        """
        fields, found, texts, labels = set(), set(), [], []
        classes = None if classes is None else set(classes)
        for document in self:
            fields.update(document.metadata)
            if document.metadata.get(field) is None:
                continue
            label = str(document.metadata[field])
            found.add(label)
            if classes is None or label in classes:
                texts.append(document.text)
                labels.append(label)
        if not found:
            raise ValueError(
                f"No document of {self.name!r} has the metadata {field!r} to be its label; "
                f"its documents have {sorted(fields) or 'none'}. Pass one of these as `field`."
            )
        if classes and not classes <= found:
            raise ValueError(
                f"No document of {self.name!r} has {field!r} {sorted(classes - found)}; "
                f"found {sorted(found)[:20]}. Pass `classes` that occur."
            )
        return texts, labels

    def __repr__(self) -> str:
        count = "not counted" if self.num_documents is None else f"{self.num_documents:,}"
        rows = {
            "documents": count,
            "language": self.language or "not given",
            "licence": self.licence or "not given",
            "source": self.source or "not given",
            "begins": self._beginning(),
        }
        description = textwrap.wrap(self.description, 88, break_on_hyphens=False)
        lines = [f"<Corpus {self.name}>", *description]
        return "\n".join([*lines, *(f"  {name:<10} {value}" for name, value in rows.items())])

    def _beginning(self) -> str:
        """The first words, unless they would have to be fetched: a repr must be quick."""
        if self.package is not None and not self.package.is_cached():
            return "(will be fetched from the package index on first use)"
        try:
            first = next(iter(self), None)
        except (OSError, ValueError) as error:
            return f"(cannot be read: {error})"
        if first is None:
            return "(empty)"
        text = " ".join(first.text[:200].split())
        return text if len(text) <= 60 else text[:60].rstrip() + "…"


def _map_texts(
    read: Callable[[], Iterator[Document]], function: Callable[[str], str]
) -> Iterator[Document]:
    return (replace(document, text=function(document.text)) for document in read())

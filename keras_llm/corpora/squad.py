"""Questions whose answers are spans of a text: the files of SQuAD, read, written and checked.

Notable:

- SQuAD 1.1 (Rajpurkar et al. 2016) and 2.0 (Rajpurkar et al. 2018) are read alike; 2.0 adds
  questions that the text does not answer, with an answer that a hasty reader would take;
- an answer is its text and where it starts, in characters. A `Question` whose context does not have
  the answer there cannot be made, so what was read is right;
- `state_of_the_union_qa`, questions written for this package, ships inside it.
"""

import gzip
import json
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from keras_llm.corpora.corpus import Corpus, Document, Split
from keras_llm.storage import whole_file

# How a file is opened, by the end of its name.
_OPEN = {".gz": gzip.open, ".xz": lzma.open}


class Answer(NamedTuple):
    """A span of a context.

    Args:
        text: str, the answer.
        start: int, the character of the context at which it starts.

    Example:
        >>> Answer("Washington", 7).start
        7
    """

    text: str
    start: int


@dataclass(frozen=True)
class Question:
    """A question about a text, and what the text answers.

    Args:
        question: str.
        context: str, the text.
        answers: tuple of `Answer`, all that are right; none where the text does not answer.
        id: str, the name of the question, unique in its file.
        title: str, what the context is taken from.
        plausible_answers: tuple of `Answer`, wrong ones that look right, of a question without
            answer.
        part: str, "train", "validation" or "test", or "" where the data name no part.

    Raises:
        ValueError: the question or the context is empty, or the context does not have an answer
            where it is said to start. The message names the `id`.

    Example:
        >>> Question("Who spoke first?", "George Washington did.", (Answer("Washington", 7),)).id
        ''
        >>> Question("Who spoke?", "Adams did.", (Answer("Washington", 0),), id="1790-0")
        Traceback (most recent call last):
        ValueError: Question '1790-0': the answer 'Washington' does not stand at character 0 of the
        context; there stands 'Adams did.'.
    """

    question: str
    context: str
    answers: tuple[Answer, ...] = ()
    id: str = ""
    title: str = ""
    plausible_answers: tuple[Answer, ...] = ()
    part: str = ""

    def __post_init__(self):
        for what in ("question", "context"):
            if not getattr(self, what).strip():
                raise ValueError(f"Question {self.id!r}: the {what} is empty.")
        for text, start in self.answers + self.plausible_answers:
            found = self.context[start : start + len(text)] if start >= 0 else ""
            if not text or found != text:
                raise ValueError(
                    f"Question {self.id!r}: the answer {text!r} does not stand at character "
                    f"{start} of the context; there stands {found!r}."
                )


# === Files ===


def read_squad(path: str | Path) -> list[Question]:
    """Reads a file of SQuAD 1.1 or 2.0.

    Args:
        path: str or Path of the JSON file, also compressed: `.json`, `.json.gz` or `.json.xz`.

    Returns:
        List of `Question`, in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not of SQuAD's form, or an answer is not a span of its context; the
            message says at which record.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "washington.json"
        >>> washington = Question("Who?", "He, Washington.", (Answer("Washington", 4),), id="0")
        >>> write_squad([washington], path)
        >>> read_squad(path)[0].answers
        (Answer(text='Washington', start=4),)
    """
    path = Path(path)
    with _OPEN.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
        try:
            content = json.load(file)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no JSON file: {error}.") from None
    return list(_questions(content, str(path)))


def write_squad(questions: Iterable[Question], path: str | Path) -> None:
    """Writes a file of SQuAD 2.0, or 1.1 where all questions have answers; whole or not at all.

    Args:
        questions: iterable of `Question`. Those of one title, and of one context, are written
            together.
        path: str or Path; what ends in `.gz` or `.xz` is compressed.

    Raises:
        ValueError: there are no questions, or two have the same id.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "answered.json.gz"
        >>> write_squad([Question("Who?", "Ada came.", (Answer("Ada", 0),), id="0")], path)
        >>> [question.question for question in read_squad(path)]
        ['Who?']
    """
    questions = list(questions)
    ids = {question.id for question in questions}
    if len(ids) < len(questions) or not questions:
        raise ValueError(
            f"{len(questions)} questions with {len(ids)} different ids cannot be written: give "
            "one question at least, and each an `id` of its own."
        )
    content = {"version": _version(questions), "data": _articles(questions)}
    path = Path(path)
    with (
        whole_file(path) as beside,
        _OPEN.get(path.suffix, open)(beside, "wt", encoding="utf-8") as file,
    ):
        json.dump(content, file, ensure_ascii=False, indent=1)
        file.write("\n")


def _version(questions: list[Question]) -> str:
    return "1.1" if all(question.answers for question in questions) else "v2.0"


def _articles(questions: list[Question]) -> list[dict]:
    """Nests questions as SQuAD does: by title, then by context."""
    with_impossible = _version(questions) == "v2.0"
    titles = {}
    for question in questions:
        contexts = titles.setdefault((question.title, question.part), {})
        contexts.setdefault(question.context, []).append(question)
    return [
        {
            "title": title,
            **({"part": part} if part else {}),
            "paragraphs": [
                {"context": context, "qas": [_to_json(q, with_impossible) for q in asked]}
                for context, asked in contexts.items()
            ],
        }
        for (title, part), contexts in titles.items()
    ]


def _to_json(question: Question, with_impossible: bool) -> dict:
    def spans(answers):
        return [{"text": text, "answer_start": start} for text, start in answers]

    written = {
        "id": question.id,
        "question": question.question,
        "answers": spans(question.answers),
    }
    if with_impossible:
        written["is_impossible"] = not question.answers
    if question.plausible_answers:
        written["plausible_answers"] = spans(question.plausible_answers)
    return written


def _questions(content: dict, name: str) -> Iterator[Question]:
    where = name
    try:
        for i, article in enumerate(content["data"]):
            where = f"{name}, data[{i}]"
            for j, paragraph in enumerate(article["paragraphs"]):
                for k, asked in enumerate(paragraph["qas"]):
                    where = f"{name}, data[{i}].paragraphs[{j}].qas[{k}]"
                    yield _from_json(asked, paragraph["context"], article)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{where}: not as SQuAD has it ({type(error).__name__}: {error}). Expected data, each "
            "with title and paragraphs, each with context and qas, each with id, question and "
            "answers of text and answer_start."
        ) from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _from_json(asked: dict, context: str, article: dict) -> Question:
    def spans(name):
        return tuple(Answer(span["text"], span["answer_start"]) for span in asked.get(name, ()))

    question = Question(
        asked["question"],
        context,
        # Some writers of 2.0 leave the plausible answers among the answers.
        () if asked.get("is_impossible", False) else spans("answers"),
        asked["id"],
        article.get("title", ""),
        spans("plausible_answers"),
        article.get("part", ""),
    )
    if not question.answers and not asked.get("is_impossible", False):
        raise ValueError(f"Question {question.id!r} has no answers and is not is_impossible.")
    return question


# === The questions that ship ===


@dataclass(frozen=True, repr=False, eq=False)
class QuestionCorpus(Corpus):
    """A corpus of the texts that questions are about.

    The metadata of a document are `title`, `part` and `questions`, a tuple of `Question`. Its
    parts are those that the data name.

    Args:
        *args: as in `Corpus`.
        **kwargs: as in `Corpus`.

    Example:
        >>> from keras_llm import corpora
        >>> question = next(corpora.load("state_of_the_union_qa").questions())
        >>> question.context[question.answers[0].start :].startswith(question.answers[0].text)
        True
    """

    def questions(self) -> Iterator[Question]:
        """Streams the questions.

        Returns:
            Iterator of `Question`.

        Example:
            >>> from keras_llm import corpora
            >>> next(corpora.load("state_of_the_union_qa").train.questions()).part
            'train'
        """
        return (question for document in self for question in document.metadata["questions"])

    def split(self) -> Split:
        """Gives the parts that the data name.

        Returns:
            `Split` of three `QuestionCorpus`.

        Example:
            >>> from keras_llm import corpora
            >>> corpora.load("state_of_the_union_qa").split().test.name
            'state_of_the_union_qa[test]'
        """
        return Split(
            *(
                replace(
                    self,
                    name=f"{self.name}[{part}]",
                    num_documents=None,
                    read=partial(_read_part, self.read, part),
                )
                for part in Split._fields
            )
        )


def _read_part(read, part: str) -> Iterator[Document]:
    return (document for document in read() if document.metadata["part"] == part)


def read_state_of_the_union_qa() -> Iterator[Document]:
    """Streams the passages, in the order of their years, with the questions about them.

    Returns:
        Iterator of `Document` with metadata `title`, `part` and `questions`.

    Example:
        >>> next(read_state_of_the_union_qa()).metadata["title"]
        '1790 George Washington'
    """
    data = resources.files("keras_llm.corpora") / "data" / "state_of_the_union_qa.json.xz"
    with resources.as_file(data) as path:
        questions = read_squad(path)
    for context, asked in groupby(questions, key=lambda question: question.context):
        asked = tuple(asked)
        first = asked[0]
        yield Document(
            context,
            {"title": first.title, "part": first.part, "questions": asked},
            id=first.id.rpartition("-")[0],
        )


STATE_OF_THE_UNION_QA = QuestionCorpus(
    name="state_of_the_union_qa",
    read=read_state_of_the_union_qa,
    description="Passages of the State of the Union addresses with four questions about each, in "
    "SQuAD 2.0's form; speeches in the parts of state_of_the_union.",
    language="en",
    licence="passages public domain, questions Apache-2.0",
    source="written for keras-llm",
    num_documents=178,
)

import gzip
import json
import lzma
from collections import Counter
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_llm import corpora
from keras_llm.corpora import Answer, Question, QuestionCorpus, read_squad, write_squad

CONTEXT = "Ada came home, Zoë 🙂 left. Ada sang."
QUESTIONS = [
    Question("Who came?", CONTEXT, (Answer("Ada", 0), Answer("Ada", 27)), "0", "Homes"),
    Question("Who left?", CONTEXT, (Answer("Zoë 🙂", 15),), "1", "Homes"),
    Question("Who slept?", CONTEXT, (), "2", "Homes", (Answer("Zoë", 15),)),
    Question("谁？", "李白来了。", (Answer("李白", 0),), "3", "诗", part="test"),
]


@pytest.mark.parametrize("name", ["qa.json", "qa.json.gz", "qa.json.xz"])
def test_written_and_read(tmp_path, name):
    path = tmp_path / name
    write_squad(QUESTIONS, path)
    assert read_squad(path) == QUESTIONS
    assert read_squad(str(path)) == QUESTIONS
    assert [child.name for child in tmp_path.iterdir()] == [name]
    opened = {"json": open, "gz": gzip.open, "xz": lzma.open}[name.rpartition(".")[2]]
    with opened(path, "rt", encoding="utf-8") as file:
        content = json.load(file)
    assert content["version"] == "v2.0"
    assert [(article["title"], len(article["paragraphs"])) for article in content["data"]] == [
        ("Homes", 1),
        ("诗", 1),
    ]
    asked = content["data"][0]["paragraphs"][0]["qas"]
    assert asked[2] == {
        "id": "2",
        "question": "Who slept?",
        "answers": [],
        "is_impossible": True,
        "plausible_answers": [{"text": "Zoë", "answer_start": 15}],
    }
    assert content["data"][1]["part"] == "test"


def test_where_all_have_answers_it_is_version_1(tmp_path):
    path = tmp_path / "qa.json"
    write_squad(QUESTIONS[:2], path)
    content = json.loads(path.read_text())
    assert content["version"] == "1.1"
    assert set(content["data"][0]["paragraphs"][0]["qas"][0]) == {"id", "question", "answers"}
    assert read_squad(path) == QUESTIONS[:2]


@given(
    spans=st.lists(st.tuples(st.integers(0, 36), st.integers(1, 9)), max_size=4),
    context=st.text(min_size=46).filter(str.strip),
)
def test_any_span_that_is_one_is_taken(tmp_path_factory, spans, context):
    answers = tuple(Answer(context[start : start + n], start) for start, n in spans)
    question = Question("?", context.encode("utf-8", "replace").decode(), answers, "0")
    path = tmp_path_factory.mktemp("squad") / "qa.json"
    write_squad([question], path)
    assert read_squad(path) == [question]


def squad(**changes):
    """A file of one right question, but for the changes."""
    asked = {"id": "7", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]}
    paragraph = {"context": CONTEXT, "qas": [asked]}
    for name, value in changes.items():
        target = paragraph if name in ("context", "qas") else asked
        target[name] = value
    return {"data": [{"title": "fine", "paragraphs": []}, {"paragraphs": [paragraph]}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "qa.json: not as SQuAD has it.*data"),
        ({"data": [{"title": "no"}]}, r"data\[0\]: not as SQuAD has it.*paragraphs"),
        (squad(answers=[{"text": "Ada", "answer_start": 1}]), "'7'.*at character 1.*stands 'da '"),
        (squad(answers=[{"text": "Ada", "answer_start": -10}]), "'7'.*at character -10"),
        (squad(answers=[{"text": "Ada", "answer_start": 99}]), "'7'.*stands ''"),
        (squad(answers=[{"text": "", "answer_start": 0}]), "'7': the answer ''"),
        (squad(answers=[{"text": "Ada"}]), "answer_start"),
        (squad(answers=[]), "'7' has no answers and is not is_impossible"),
        (squad(question=" "), "'7': the question is empty"),
        (squad(context="\n"), "'7': the context is empty"),
        (squad(question=None), "not as SQuAD has it"),
        (squad(qas=[{"question": "Who?"}]), "not as SQuAD has it.*id"),
    ],
)
def test_errors_say_which_record(tmp_path, content, message):
    path = tmp_path / "qa.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        read_squad(path)
    if "'7'" in message:
        assert "data[1].paragraphs[0].qas[0]" in str(error.value)


def test_what_is_no_file_of_questions(tmp_path):
    (tmp_path / "qa.json").write_text("{")
    with pytest.raises(ValueError, match=r"qa.json is no JSON file"):
        read_squad(tmp_path / "qa.json")
    with pytest.raises(FileNotFoundError):
        read_squad(tmp_path / "none.json")
    for questions in ([], QUESTIONS[:1] * 2):
        with pytest.raises(ValueError, match="cannot be written"):
            write_squad(questions, tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()


def test_impossible_questions_that_keep_plausible_answers_among_the_answers(tmp_path):
    path = tmp_path / "qa.json"
    path.write_text(json.dumps(squad(is_impossible=True)))
    assert read_squad(path)[0].answers == ()


# === State of the Union ===


def test_state_of_the_union_qa():
    corpus = corpora.load("state_of_the_union_qa")
    assert isinstance(corpus, QuestionCorpus)
    questions = list(corpus.questions())
    assert len(questions) == 712
    assert len({question.id for question in questions}) == 712
    assert all(question.question.endswith("?") for question in questions)
    kinds = Counter((question.part, bool(question.answers)) for question in questions)
    assert kinds == {
        ("train", True): 370,
        ("train", False): 70,
        ("validation", True): 59,
        ("validation", False): 13,
        ("test", True): 161,
        ("test", False): 39,
    }
    for question in questions:
        assert len(question.answers) + len(question.plausible_answers) == 1
        (text, start), *_ = question.answers + question.plausible_answers
        assert question.context[start : start + len(text)] == text == text.strip()
        # A span of whole words, and not given away by the question.
        before, after = question.context[:start], question.context[start + len(text) :]
        assert not before[-1:].isalnum()
        assert not after[:1].isalnum()
        if question.answers:
            assert text.lower() not in question.question.lower()
    first = questions[0]
    assert (first.id, first.title) == ("1790-george-washington-0-0", "1790 George Washington")
    titles = [question.title for question in questions]
    assert titles == sorted(titles)


def test_passages_are_of_the_speeches_in_the_same_parts():
    passages = corpora.load("state_of_the_union_qa")
    speeches = corpora.load("state_of_the_union")
    for part in ("train", "validation", "test"):
        texts = {speech.id: speech.text for speech in getattr(speeches, part)}
        here = list(getattr(passages, part))
        assert here
        for passage in here:
            assert passage.text in texts[passage.metadata["title"]]
    parts = passages.split()
    assert sum(len(list(part)) for part in parts) == 178
    assert [part.name for part in parts][2] == "state_of_the_union_qa[test]"


def test_what_ships_is_small_and_of_squad_s_form():
    packed = resources.files("keras_llm.corpora") / "data" / "state_of_the_union_qa.json.xz"
    raw = packed.read_bytes()
    assert len(raw) < 100_000
    content = json.loads(lzma.decompress(raw))
    assert content["version"] == "v2.0"
    assert {key for article in content["data"] for key in article} == {
        "title",
        "part",
        "paragraphs",
    }

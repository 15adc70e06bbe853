"""Cleaning of what was damaged on purpose; near-duplicates beside a comparison of all pairs."""

import pickle
import random
import re
from collections.abc import Iterator
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.corpora import Corpus, Document, clean, drop_near_duplicates, near_duplicates
from keras_llm.corpora.cleaning import shingles


@pytest.mark.parametrize(
    ("damaged", "whole"),
    [
        ("Ã…ngstrÃ¶m", "Ångström"),
        ("新年快乐".encode().decode("latin-1"), "新年快乐"),
        ("itâ€™s", "it’s"),
        ("a &lt; b &amp;&amp; c", "a < b && c"),
        ("ﬁne", "fine"),
        ("e\u0301", "é"),
        ("a\x00b\x1bc\x7f", "abc"),
        ("\ufeffsoft\u00adhy\u200bphen\u202e", "softhyphen"),
        ("a  b\t c \u3000 d\u00a0e", "a b c d e"),
        ("  a\r\n\n \n\n b\rc\u2028d", "a\n\nb\nc\nd"),
        ("\u3000\u3000今天天气很好。", "今天天气很好。"),
        (" \n\t", ""),
    ],
)
def test_damage_is_repaired(damaged, whole):
    assert clean(damaged) == whole


@pytest.mark.parametrize(
    "text",
    ["“你好，世界！”（ＧＤＰ）：１２％", "‘quoted’ “text” — naïve…", "👩\u200d💻 🙂", "क्\u200dष"],
)
def test_what_is_meant_stays(text):
    assert clean(text) == text


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60))
def test_cleaning_again_changes_nothing(text):
    once = clean(text)
    assert clean(once) == once
    assert not re.search(r"[^\S\n]{2}|[\x00-\x08\x7f]|\n{3}|^\s|\s$", once)


# === Near-duplicates ===


def jaccard(first, second):
    """By the definition, on words that are split as a reader would."""

    def runs(text):
        words = [w for w in re.split(r"\W+", text.lower()) if w]
        return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}

    return len(runs(first) & runs(second)) / len(runs(first) | runs(second))


@pytest.fixture(scope="module")
def texts():
    """Texts of made-up words, and copies of them in which a few words were exchanged."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=5)) for _ in range(300)]
    texts = [" ".join(rng.choices(words, k=rng.randrange(5, 60))) for _ in range(150)]
    for text in texts[:100]:
        copy = text.split(" ")
        for _ in range(rng.randrange(4)):
            copy[rng.randrange(len(copy))] = rng.choice(words)
        texts.append(" ".join(copy).capitalize() + "!")
    return texts


def test_all_pairs_agree(texts):
    """What is found is similar, and what is clearly similar is found."""
    found = list(near_duplicates(texts, verbose=False))
    for position, original, similarity in found:
        assert original < position
        exact = jaccard(texts[position], texts[original])
        assert similarity == pytest.approx(exact, abs=0.16)  # four standard deviations
        assert exact > 0.64
    repeats = {
        later
        for first, later in combinations(range(len(texts)), 2)
        if jaccard(texts[first], texts[later]) > 0.92
    }
    assert 20 < len(repeats) <= len(found) < 100
    assert repeats <= {later for later, _, _ in found}


def test_more_permutations_estimate_better(texts):
    def error(permutations):
        found = near_duplicates(texts, 0.5, permutations=permutations, verbose=False)
        errors = [s - jaccard(texts[later], texts[first]) for later, first, s in found]
        return sum(e * e for e in errors) / len(errors)

    assert error(512) < error(32) / 4  # 16 times as many: the variance is a sixteenth


def test_seed_and_threshold_decide(texts):
    def found(**settings):
        return list(near_duplicates(texts, verbose=False, **settings))

    assert found() == found()
    assert found(seed=1) != found()
    later = [{position for position, _, _ in found(threshold=t)} for t in (0.5, 0.9)]
    assert later[1] < later[0]
    for wrong in ({"threshold": 0}, {"threshold": 1}, {"shingle": 0}, {"permutations": 1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
            found(**wrong)


def test_the_first_stays_and_the_most_similar_is_named():
    words = [f"w{i}" for i in range(40)]
    first, other = " ".join(words), " ".join([*words[:25], *map(str, range(15))])
    texts = [first, "no fox", other, f"{other} indeed", first.upper(), "No fox."]
    found = near_duplicates(texts, verbose=False)
    assert [(f.position, f.original) for f in found] == [(3, 2), (4, 0), (5, 1)]


def test_chinese_and_short_texts():
    texts = [
        "屏幕很清晰，键盘手感也不错，就是散热不太好",
        "屏幕很清晰,键盘手感也不错,就是散热不太好。",
        "屏幕不清晰，键盘手感很差，散热倒是不错",
        "好",
        "不好",
        "好！",
        "",
        "！",
        "１２３",
        "123",
    ]
    found = near_duplicates(texts, verbose=False)
    assert [(f.position, f.original) for f in found] == [(1, 0), (5, 3), (7, 6), (9, 8)]


@settings(max_examples=100, deadline=None)
@given(
    words=st.lists(st.sampled_from(["one", "two", "好", "的"]), max_size=8), size=st.integers(1, 4)
)
def test_shingles(words, size):
    runs = {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}
    assert shingles(", ".join(words).upper(), size) == (runs or {" ".join(words)})


def test_a_stream_is_read_once_and_as_it_comes():
    read = []

    def stream() -> Iterator[str]:
        for text in ("a b c d", "a b c d", "x"):
            read.append(text)
            yield text

    found = near_duplicates(stream(), verbose=False)
    assert next(found) == (1, 0, 1.0)
    assert len(read) == 2


def documents():
    """Two documents, the first in two parts, a copy of each, and another."""
    yield Document("one two three four", id="a")
    yield Document("of the first", id="a", part=1)
    yield Document("five six seven", {"year": 1}, id="b")
    yield Document("One two three four.", id="c")
    yield Document("that goes as well", id="c", part=1)
    yield Document("five six seven", id="d")
    yield Document("of the first", id="e")


def test_a_corpus_without_near_duplicates(capsys):
    corpus = Corpus("numbers", documents, language="en", num_documents=5)
    kept = drop_near_duplicates(corpus)
    assert [(d.id, d.part) for d in kept] == [("a", 0), ("a", 1), ("b", 0), ("e", 0)]
    assert [d.id for d in pickle.loads(pickle.dumps(kept))] == ["a", "a", "b", "e"]
    assert (kept.language, kept.num_documents) == ("en", None)
    assert "Near-duplicates, documents" in capsys.readouterr().err
    # The parts of a part are still parts of the whole.
    parts = corpus.split(0.3, 0.3)
    for part in parts:
        alone = drop_near_duplicates(part, verbose=False)
        assert {d.id for d in alone} <= {d.id for d in part}
        assert [d.text for d in alone.split(0.3, 0.3).train] == [
            d.text for d in alone if d.text in {e.text for e in part.split(0.3, 0.3).train}
        ]


def test_texts_without_near_duplicates(capsys):
    texts = ["a b c", "x", "A b c!"]
    assert drop_near_duplicates(iter(texts), verbose=False) == ["a b c", "x"]
    assert drop_near_duplicates([], verbose=False) == []
    assert capsys.readouterr().err == ""


def test_clean_corpora():
    corpus = Corpus("numbers", documents).map(clean).map(str.upper)
    assert next(corpus.texts()) == "ONE TWO THREE FOUR"
    assert [d.id for d in corpus] == [d.id for d in documents()]
    assert next(iter(pickle.loads(pickle.dumps(corpus)))).text == "ONE TWO THREE FOUR"

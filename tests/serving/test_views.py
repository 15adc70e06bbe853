import html
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import TEXTS

from keras_llm.serving import views

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=50)
@given(texts, st.integers(1, 5))
def test_parts_together_are_the_text(text, most):
    pieces = views.parts(text, most)
    assert len(pieces) <= most
    assert "".join(pieces) == text or not pieces


def test_parts_are_words_characters_and_marks():
    assert views.parts("A good film.") == ["A", " good", " film", "."]
    assert views.parts("坏电影！") == ["坏", "电", "影", "！"]
    assert views.parts(" \n ") == []
    assert len(views.parts("good " * 1000)) == 64


def test_occlusion_is_the_change_without_the_word():
    weights = {"good": 3.0, "not": -2.0, "film": 0.0}

    def positive(text):
        return 1 / (1 + np.exp(-sum(weights[word] for word in text.split())))

    def classify(columns):
        shares = np.array([positive(text) for text in columns["text"]])
        return np.stack([1 - shares, shares], axis=1)

    changes = views.occlusion(classify, {"text": "not good film"})["text"]
    assert [word for word, _ in changes] == ["not", " good", " film"]
    expected = [positive("not good film") - positive(rest) for rest in ("good", "not", "not good")]
    np.testing.assert_allclose([change for _, change in changes], expected)


def test_occlusion_of_a_pair_leaves_out_of_each_text_in_one_batch():
    batches = []

    def same(columns):
        batches.append(columns)
        pairs = zip(columns["first"], columns["second"], strict=True)
        return np.array([[one == other, one != other] for one, other in pairs], float)

    changes = views.occlusion(same, {"first": "a film", "second": "a film"})
    assert changes == {name: [("a", 1.0), (" film", 1.0)] for name in ("first", "second")}
    (batch,) = batches
    assert batch["first"] == ["a film", " film", "a", "a film", "a film"]


@settings(max_examples=50)
@given(texts, st.lists(st.integers(0, 40), max_size=6))
def test_spans_together_are_the_text(text, cuts):
    cuts = sorted({min(cut, len(text)) for cut in cuts})
    bounds = list(zip(cuts[::2], cuts[1::2], strict=False))
    starts, ends = zip(*bounds, strict=True) if bounds else ((), ())
    pieces = views.spans(text, starts, ends, ["A"] * len(starts))
    assert "".join(piece for piece, _ in pieces) == text
    marked = [piece for piece, label in pieces if label]
    assert marked == [text[start:end] for start, end in bounds]


def test_words_that_are_not_in_the_text_have_no_place():
    assert views.places("a film", ["a", "x", "film", ""]) == ([0, -1, 2, -1], [1, -1, 6, -1])


def test_a_text_grows_until_the_model_ends_it():
    asked = []

    def generate(count):
        asked.append(count)
        return "x" * min(count, 7), min(count, 7)

    assert list(views.growing(generate, 100))[-1] == "x" * 7
    assert max(asked) < 15
    asked.clear()
    assert len(list(views.growing(generate, 5))) == 3
    assert asked == [2, 4, 5]


@pytest.mark.parametrize("text", ["<b>&", *TEXTS[:2]])
def test_what_is_drawn_is_text(text):
    for drawn in (
        views.colored({"text": [(text, 0.5)]}, text),
        views.marked([(text, None), (text, text)]),
        views.numbered([(text, 1)]),
    ):
        shown = html.unescape(re.sub(r"<[^<>]*>", "", drawn))
        assert shown.count(text) >= 1


def test_colors_say_how_much_and_which_way():
    drawn = views.colored({"text": [("bad", -0.2), ("good", 0.4), ("film", 0.0)]}, "positive")
    assert 'title="-0.200" style="background: rgba(234, 120, 12, 0.38)">bad<' in drawn
    assert 'title="+0.400" style="background: rgba(37, 99, 235, 0.75)">good<' in drawn
    assert 'title="+0.000" style="background: rgba(234, 120, 12, 0.00)">film<' in drawn
    assert "-0.40" in drawn.partition("legend")[2]

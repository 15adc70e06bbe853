from itertools import islice

import pytest

from keras_llm import corpora


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Mr. Speaker, thank you. God bless!", "en", ["Mr. Speaker, thank you.", "God bless!"]),
        ("A line that\ngoes on. Next.", "en", ["A line that\ngoes on.", "Next."]),
        ("“你好。”他说。真的？是！", "zh", ["“你好。”", "他说。", "真的？", "是！"]),
        ("标题\n第一句。", "zh", ["标题", "第一句。"]),
        (" \n ", "en", []),
    ],
)
def test_sentences(text, language, expected):
    assert corpora.sentences(text, language) == expected


def test_no_character_is_lost():
    for text in islice(corpora.load("state_of_the_union").texts(), 0, 233, 50):
        sentences = corpora.sentences(text, "en")
        assert "".join(" ".join(sentences).split()) == "".join(text.split())
        assert len(sentences) > 20

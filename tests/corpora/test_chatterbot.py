"""The dialogues, against facts counted beforehand in the files."""

from collections import Counter

import pytest
import yaml

from keras_llm import corpora
from keras_llm.corpora.chatterbot import CHATTERBOT, TOPICS


@pytest.mark.parametrize(
    ("name", "pairs", "longest"), [("dialogues_en", 819, 26), ("dialogues_zh", 449, 26)]
)
def test_turns(name, pairs, longest):
    corpus = corpora.load(name)
    dialogues = [document.metadata["turns"] for document in corpus]
    assert len(dialogues) == corpus.num_documents
    counts = Counter(map(len, dialogues))
    assert counts[2] == pairs
    assert (min(counts), max(counts)) == (2, longest)
    assert all(turn and turn == turn.strip() for turns in dialogues for turn in turns)


def test_each_dialogue_once():
    lines = [tuple(document.metadata["turns"]) for document in corpora.load("dialogues_en")]
    assert len(set(lines)) == len(lines)
    everything = [
        tuple(turn.strip() for turn in dialogue)
        for topic in TOPICS["english"]
        for dialogue in yaml.safe_load(CHATTERBOT.path(f"english-{topic}.yml").read_text("utf-8"))[
            "conversations"
        ]
    ]
    (broken,) = set(everything) - set(lines)
    assert broken[:4] == ("I", "n", "", "a")
    assert len(everything) > 1.5 * len(lines)


def test_a_known_dialogue():
    document = next(d for d in corpora.load("dialogues_zh") if d.id == "conversations 3")
    assert document.metadata == {
        "turns": ["你听到新闻了吗?", "什么新闻?"],
        "topic": "conversations",
    }
    assert document.text == "你听到新闻了吗?\n什么新闻?"

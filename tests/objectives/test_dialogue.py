from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm import corpora
from keras_llm.objectives import dialogue_examples
from keras_llm.objectives.dialogue import lay_turns
from keras_llm.tokenizers import WordPieceTokenizer

WORDS = [f"w{i}" for i in range(40)]
TOKENIZER = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
START, END = 2, 3


def rows_of(dialogues, length):
    """The rows as lists of (read, asked for or None)."""
    examples = dialogue_examples(dialogues, TOKENIZER, 4, length, training=False)
    rows = []
    for x, y, weights in examples:
        for ids, real, following, asked in zip(
            x["token_ids"].numpy(),
            x["padding_mask"].numpy(),
            y.numpy(),
            weights.numpy(),
            strict=True,
        ):
            assert not asked[~real].any()
            pairs = zip(ids[real], following[real], asked[real] > 0, strict=True)
            rows.append([(int(a), int(b) if is_asked else None) for a, b, is_asked in pairs])
    return rows


turn = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6)
dialogue = st.lists(turn, min_size=2, max_size=7)


@settings(max_examples=40, deadline=None)
@given(st.lists(dialogue, min_size=1, max_size=4), st.integers(14, 40))
def test_every_turn_but_the_first_is_asked_for_once(dialogues, length):
    texts = [[" ".join(words) for words in turns] for turns in dialogues]
    expected = [
        token for turns in texts for t in turns[1:] for token in [*TOKENIZER.encode(t), END]
    ]
    rows = rows_of(texts, length)
    assert [b for row in rows for _, b in row if b is not None] == expected
    for row in rows:
        assert row[0][0] == START
        for (_, asked), (following, _) in pairwise(row):
            assert asked in (None, following)


def test_a_long_dialogue_goes_on_with_its_last_reply():
    rows = rows_of([["w1 w2", "w3", "w4 w5", "w6", "w7"]], length=9)
    read = [[a for a, _ in row] for row in rows]
    w = {i: TOKENIZER.token_to_id(f"w{i}") for i in range(9)}
    assert read == [
        [START, w[1], w[2], END, w[3], END, w[4], w[5]],
        [START, w[4], w[5], END, w[6], END, w[7]],
    ]


def test_turns_that_are_too_long_for_a_row():
    long = " ".join(WORDS[:20])
    ((*read,),) = rows_of([[long, " ".join(WORDS[20:])]], length=12)
    ids = [a for a, _ in read]
    assert ids == [START, *range(5 + 16, 5 + 20), END, *range(25, 31)]
    assert [b for _, b in read if b is not None] == [*range(25, 31), END]


@pytest.mark.parametrize(
    ("dialogues", "error", "message"),
    [
        ([["w1", "w2"], ["w3"]], ValueError, "Dialogue 1 is .* two turns"),
        ([["w1", " "]], ValueError, "Dialogue 0 .* empty"),
        (["w1 w2"], TypeError, "Dialogue 0 is 'w1 w2'"),
        ([["w1", 3]], TypeError, "Dialogue 0"),
        ([], ValueError, "There are no dialogues"),
        (iter([["w1", "w2"]]), TypeError, "only once"),
    ],
)
def test_what_is_no_dialogue(dialogues, error, message):
    with pytest.raises(error, match=message):
        dialogue_examples(dialogues, TOKENIZER, 2, 16)


def test_the_shortest_row():
    assert [[a for a, _ in row] for row in rows_of([["w1 w2 w3", "w4 w5 w6"]], length=5)] == [
        [START, TOKENIZER.token_to_id("w3"), END, *TOKENIZER.encode("w4 w5")]
    ]
    with pytest.raises(ValueError, match="sequence_length=4 must be at least 5"):
        dialogue_examples([["w1", "w2"]], TOKENIZER, 1, 4)


def test_a_corpus_of_dialogues():
    corpus = corpora.load("dialogues_zh")
    tokenizer = WordPieceTokenizer.train(corpus.texts(), 1200)
    examples = dialogue_examples(corpus, tokenizer, 16, 64, training=False)
    asked = sum(int(np.sum(weights)) for _, _, weights in examples)
    turns = [turns[1:] for turns in (document.metadata["turns"] for document in corpus)]
    whole = sum(len(tokenizer.encode(t)) + 1 for dialogue in turns for t in dialogue)
    assert 0.9 * whole < asked <= whole  # few replies are longer than a row


@given(
    st.lists(st.lists(st.integers(10, 20), max_size=5), min_size=1, max_size=6), st.integers(3, 40)
)
def test_the_oldest_turns_go_first(turns, room):
    ids = lay_turns(turns, TOKENIZER, room)
    held = ids.count(END)
    assert len(ids) <= room and ids[0] == START and ids[-1] == END
    kept = [token for turn in turns[len(turns) - held :] for token in [*turn, END]]
    assert ids[1:] == kept[max(len(kept) + 1 - room, 0) :]
    if held < len(turns):  # one more would not have fitted
        assert len(kept) + 1 + len(turns[-held - 1]) + 1 > room

from itertools import chain

import numpy as np
import pytest
import tensorflow as tf

from keras_llm.corpora import Document
from keras_llm.objectives import causal_lm_examples

LENGTH = 64


def _rows(dataset):
    """The rows of a dataset, unpadded: ids, segments and targets."""
    for x, y, weights in dataset:
        real = x["padding_mask"].numpy()
        np.testing.assert_array_equal(weights.numpy(), real.astype("float32"))
        for row in range(len(real)):
            yield tuple(
                values.numpy()[row][real[row]].tolist()
                for values in (x["token_ids"], x["segment_ids"], y)
            )


@pytest.fixture(scope="module")
def documents(speeches):
    """Long documents and short ones, some of which share a row."""
    texts = [speech.text for speech in speeches[:2]]
    return [*texts, "A cat sat.", "", "It purred.", texts[0][:700], "Rain fell."]


@pytest.fixture(scope="module")
def framed(documents, tokenizer):
    """Each document as pairs of a token and the one that comes next, the empty one left out."""
    rows = []
    for ids in map(tokenizer.encode, documents):
        if ids:
            start, end = tokenizer.start_token_id, tokenizer.end_token_id
            rows.append(list(zip([start, *ids], [*ids, end], strict=True)))
    return rows


def test_every_token_is_read_once_and_asked_for_once(documents, framed, tokenizer):
    dataset = causal_lm_examples(documents, tokenizer, 8, LENGTH, training=False)
    rows = list(_rows(dataset))
    pairs = [pair for ids, _, targets in rows for pair in zip(ids, targets, strict=True)]
    assert pairs == list(chain.from_iterable(framed))
    assert [len(ids) for ids, _, _ in rows[:-1]] == [LENGTH] * (len(rows) - 1)  # no padding


def test_segments_are_documents(documents, framed, tokenizer):
    numbers = np.repeat(range(len(framed)), [len(document) for document in framed])
    dataset = causal_lm_examples(documents, tokenizer, 8, LENGTH, training=False)
    most = 0
    for row, (_, segments, _) in enumerate(_rows(dataset)):
        own = numbers[row * LENGTH : (row + 1) * LENGTH]
        assert segments == (own - own[0]).tolist()
        most = max(most, segments[-1])
    assert most >= 2
    x, _, _ = list(dataset)[-1]
    padding = ~x["padding_mask"].numpy()[-1]
    assert padding.any()
    assert np.all(x["segment_ids"].numpy()[-1][padding] == segments[-1] + 1)


def test_format(documents, tokenizer):
    integers = tf.TensorSpec((8, LENGTH), tf.int32)
    booleans = tf.TensorSpec((8, LENGTH), tf.bool)
    inputs = {"token_ids": integers, "padding_mask": booleans, "segment_ids": integers}
    spec = (inputs, integers, tf.TensorSpec((8, LENGTH), tf.float32))
    assert causal_lm_examples(documents, tokenizer, 8, LENGTH).element_spec == spec
    dataset = causal_lm_examples(documents, tokenizer, 8, LENGTH, across_documents=True)
    del inputs["segment_ids"]
    assert dataset.element_spec == (inputs, *spec[1:])


def test_start_and_end_may_be_one_token(documents, tokenizer, monkeypatch):
    """As in GPT-2: the rows are pieces of one stream, `end document end document end`."""
    monkeypatch.setattr(tokenizer, "start_token_id", tokenizer.end_token_id)
    end = tokenizer.end_token_id
    stream = [end]
    for ids in filter(None, map(tokenizer.encode, documents)):
        stream += [*ids, end]
    rows = _rows(causal_lm_examples(documents, tokenizer, 8, LENGTH, training=False))
    for number, (ids, _, targets) in enumerate(rows):
        start = number * LENGTH
        assert ids == stream[start : start + len(ids)]
        assert targets == stream[start + 1 : start + 1 + len(ids)]


def test_parts_of_a_document_are_one(tokenizer):
    whole = [Document("A cat sat.\nIt purred.", id="1"), Document("Rain fell.", id="2")]
    parts = [Document("A cat sat.", id="1"), Document("It purred.", id="1", part=1), whole[1]]
    rows = [
        list(_rows(causal_lm_examples(corpus, tokenizer, 1, 8, training=False)))
        for corpus in (whole, parts)
    ]
    assert rows[0] == rows[1]


def test_no_room():
    with pytest.raises(ValueError, match="sequence_length=0"):
        causal_lm_examples(["a"], None, 8, 0)

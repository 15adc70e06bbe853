"""What all objectives share: reading, packing, order, replicas."""

from itertools import chain, pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_llm import training
from keras_llm.corpora import Corpus, Document
from keras_llm.models import GPT2Backbone, GPT2CausalLM
from keras_llm.objectives import (
    causal_lm_examples,
    denoising_examples,
    masked_lm_examples,
    span_corruption_examples,
    streams,
)
from keras_llm.tokenizers import WordPieceTokenizer

LENGTH = 32
EXAMPLES = {
    "causal": causal_lm_examples,
    "masked": masked_lm_examples,
    "span corruption": span_corruption_examples,
    "denoising": denoising_examples,
}


@pytest.fixture(scope="module")
def sentinelled(tokenizer):
    """The tokenizer of the speeches, with sentinels."""
    words = tokenizer.get_vocabulary()
    tokenizer = WordPieceTokenizer([*words, *(f"<extra_id_{i}>" for i in range(40))])
    tokenizer.sentinel_ids = list(range(len(words) + 39, len(words) - 1, -1))
    return tokenizer


@pytest.fixture(params=EXAMPLES, scope="module")
def examples(request, speeches, sentinelled):
    """A function that makes the batches of one objective, about 140 rows an epoch."""
    texts = [speech.text[:6000] for speech in speeches[:4]]

    def make(batch_size=16, source=texts, **options):
        return EXAMPLES[request.param](source, sentinelled, batch_size, LENGTH, **options)

    return make


def _arrays(batches):
    return [[value.numpy() for value in tf.nest.flatten(batch)] for batch in batches]


def _rows(batches):
    """The examples of batches, each as bytes."""
    return [
        b"".join(value[row].tobytes() for value in batch)
        for batch in _arrays(batches)
        for row in range(len(batch[0]))
    ]


# === Order ===


def test_skip_goes_on_exactly(examples):
    """Also into the second epoch, under another global seed, and when made again."""
    rows = _rows(examples(seed=5).take(20))
    assert len(_rows(examples(training=False))) < 18 * 16  # so that the last is of another epoch
    keras.utils.set_random_seed(99)
    again = examples(seed=5)
    for skipped in (1, 18):
        start = 16 * skipped
        assert _rows(again.skip(skipped).take(1)) == rows[start : start + 16]


def test_batch_size_and_time_change_nothing(examples):
    rows = _rows(examples(10, epochs=1))
    larger = _rows(examples(25, epochs=1))
    length = min(len(rows), len(larger))
    assert rows[:length] == larger[:length]
    assert rows == _rows(examples(10, epochs=1))


def test_seeds_and_epochs_differ(examples):
    size = len(_rows(examples(training=False)))
    first, second = (_rows([batch]) for batch in examples(size, epochs=2))
    assert first != second
    assert first != _rows(examples(size, epochs=1, seed=1))


def test_rows_without_noise_come_once_an_epoch(examples, request):
    """In order for validation, in another order in every epoch of training."""
    fixed = {} if "causal" in request.node.name else {"dynamic": False}
    ordered = _rows(examples(training=False, **fixed))
    assert ordered == _rows(examples(7, training=False, **fixed))  # the remainder is kept
    epochs = [_rows([batch]) for batch in examples(len(ordered), epochs=2, **fixed)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(ordered)
    assert epochs[0] != epochs[1] != ordered != epochs[0]


def test_order_is_well_mixed(examples, request):
    fixed = {} if "causal" in request.node.name else {"dynamic": False}
    place = {row: i for i, row in enumerate(_rows(examples(training=False, **fixed)))}
    places = [place[row] for row in _rows(examples(1, epochs=1, **fixed))]
    assert abs(np.corrcoef(places, range(len(places)))[0, 1]) < 0.2


def test_windows_are_shuffled_one_by_one(examples, request, monkeypatch):
    monkeypatch.setattr(streams, "SHUFFLE_WINDOW", 40 * LENGTH)
    fixed = {} if "causal" in request.node.name else {"dynamic": False}
    ordered = _rows(examples(training=False, **fixed))
    window = 40 if "span" not in request.node.name else 40 * LENGTH // 34
    shuffled = _rows(examples(1, epochs=1, **fixed))
    assert shuffled[:window] != ordered[:window]
    assert sorted(shuffled[:window]) == sorted(ordered[:window])


def test_batches_are_shared_out_to_replicas(examples):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    batches = examples()
    distributed = iter(strategy.experimental_distribute_dataset(batches))
    for batch in batches.take(3):
        replicas = tf.nest.map_structure(
            lambda value: tf.concat(strategy.experimental_local_results(value), 0),
            next(distributed),
        )
        for a, b in zip(tf.nest.flatten(replicas), tf.nest.flatten(batch), strict=True):
            np.testing.assert_array_equal(a, b)


def test_validation_knows_its_length(examples):
    dataset = examples(training=False)
    assert len(dataset) == sum(1 for _ in dataset)


def test_fixed_shapes(examples):
    for value in tf.nest.flatten(examples().element_spec):
        assert value.shape.is_fully_defined()
        assert value.shape[0] == 16
        assert value.dtype in (tf.int32, tf.bool, tf.float32)


def test_errors_come_before_the_data(examples):
    with pytest.raises(ValueError, match="is empty"):
        examples(source=["", " "])
    with pytest.raises(TypeError, match="read only once"):
        examples(source=iter(["a"]))
    with pytest.raises(TypeError, match="single string"):
        examples(source="a cat")
    with pytest.raises(ValueError, match="batch_size=0"):
        examples(0)


def test_fit_on_one_and_two_replicas_ends_at_the_same_weights(speeches, tokenizer):
    texts = [speech.text[:6000] for speech in speeches[:4]]
    found = []
    for strategy in (tf.distribute.get_strategy(), training.strategy()):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            backbone = GPT2Backbone(2000, 1, 2, 16, 32, max_sequence_length=LENGTH, dropout=0.0)
            model = GPT2CausalLM(backbone)
            model.compile(training.AdamW(0.01))
        batches = causal_lm_examples(texts, tokenizer, 16, LENGTH)
        validation = causal_lm_examples(texts[:1], tokenizer, 16, LENGTH, training=False)
        history = model.fit(
            batches, steps_per_epoch=5, epochs=2, validation_data=validation, verbose=0
        ).history
        found.append([*model.get_weights(), history["loss"], history["val_loss"]])
    assert history["loss"][1] < history["loss"][0]
    assert history["val_loss"][1] < history["val_loss"][0]
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


# === Reading and packing ===


def test_corpora_documents_and_strings_are_the_same(tokenizer):
    texts = ["A cat sat.", "It purred."]
    documents = [Document(text, id=text) for text in texts]
    corpus = Corpus("cats", lambda: iter(documents))
    expected = [(tokenizer.encode(text), True) for text in texts]
    for source in (texts, documents, corpus):
        assert list(streams.encoded(source, tokenizer)) == expected


def test_blocks_change_nothing(speeches, tokenizer, monkeypatch):
    texts = [speech.text[:2000] for speech in speeches]
    whole = list(streams.encoded(texts, tokenizer))
    monkeypatch.setattr(streams, "BLOCK_DOCUMENTS", 2)
    assert list(streams.encoded(texts, tokenizer)) == whole


def test_sentences_together_are_the_text(speeches, tokenizer):
    texts = [speech.text[:2000] for speech in speeches[:3]]
    documents = [ids for ids, _ in streams.encoded(texts, tokenizer)]
    sentences = list(streams.encoded(texts, tokenizer, by_sentence=True))
    assert sum(begins for _, begins in sentences) == 3 < len(sentences)
    assert list(chain(*(ids for ids, _ in sentences))) == list(chain(*documents))


@given(
    sizes=st.lists(st.integers(0, 30), max_size=12),
    length=st.integers(2, 20),
    overlap=st.integers(0, 1),
)
def test_cut(sizes, length, overlap):
    total = sum(sizes)
    pieces = np.split(np.arange(total), np.cumsum(sizes)[:-1]) if sizes else []
    rows = [row.tolist() for row in streams.cut(pieces, length, overlap)]
    assert all(len(row) == length for row in rows[:-1])
    assert all(row[-1] - overlap + 1 == following[0] for row, following in pairwise(rows))
    assert list(chain(*(row[overlap:] for row in rows))) == list(range(overlap, total))


class Numbers:
    """A tokenizer for texts of numbers."""

    def encode_batch(self, texts):
        return [[int(word) for word in text.split()] for text in texts]


@given(
    documents=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=5),
    room=st.integers(3, 12),
    separator=st.sampled_from([None, 0]),
)
def test_full_sentences(documents, room, separator):
    tokens = iter(range(1, 1000))
    documents = [[[next(tokens) for _ in range(n)] for n in sentences] for sentences in documents]
    texts = ["|".join(" ".join(map(str, s)) for s in sentences) for sentences in documents]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams.corpora, "sentences", lambda text, language: text.split("|"))
        rows = list(streams.full_sentences(texts, Numbers(), room, separator))

    # Each row is full: what stands at the front of the next would not have fitted.
    document = {token: d for d, sentences in enumerate(documents) for token in chain(*sentences)}
    for row, following in pairwise(rows):
        changes = document[row[-1][-1]] != document[following[0][0]]
        size = sum(map(len, row)) + len(following[0]) + changes * (separator is not None)
        assert size > room or (changes and separator is None)
    # All sentences come in order; only those longer than a row are cut.
    pieces = [
        sentence[start : start + room]
        for sentence in chain(*documents)
        for start in range(0, len(sentence), room)
    ]
    assert [[t for t in piece if t] for row in rows for piece in row] == pieces
    for row in rows:
        assert 0 < sum(map(len, row)) <= room
        of_row = [document[piece[-1]] for piece in row]
        begins = np.diff(of_row, prepend=of_row[0]) != 0
        assert [piece[0] == 0 for piece in row] == begins.tolist()
        assert separator is not None or not begins.any()

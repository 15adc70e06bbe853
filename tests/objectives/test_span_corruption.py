from collections import Counter
from itertools import chain, product
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from keras_llm.objectives import SpanCorruption, span_corruption_examples
from keras_llm.tokenizers import WordPieceTokenizer

END = 1
SENTINELS = list(range(-1, -401, -1))
ids = SimpleNamespace(sentinel_ids=SENTINELS, end_token_id=END)


@pytest.fixture(scope="module")
def sentinelled(tokenizer):
    """The tokenizer of the speeches, with 40 sentinels."""
    words = tokenizer.get_vocabulary()
    tokenizer = WordPieceTokenizer([*words, *(f"<extra_id_{i}>" for i in range(40))])
    tokenizer.sentinel_ids = list(range(len(words) + 39, len(words) - 1, -1))
    return tokenizer


def _restore(inputs, targets, sentinels=SENTINELS, end=END):
    """Puts the spans of the targets back where their sentinels stand in the inputs."""
    inputs, targets = list(inputs), list(targets)
    assert inputs.pop() == targets.pop() == end
    spans, seen = {}, []
    for token in targets:
        if token in sentinels:
            seen.append(token)
            spans[token] = []
        else:
            spans[seen[-1]].append(token)
    assert seen == sentinels[: len(seen)] == [token for token in inputs if token in sentinels]
    assert all(spans.values()), "a sentinel stands for nothing"
    return [part for token in inputs for part in spans.get(token, [token])]


def test_lengths_of_the_paper():
    """Inputs of 512 come of 568 tokens, with targets of 114: T5's `random_spans_helper`."""
    corrupt = SpanCorruption(ids)
    assert corrupt.tokens_for(512) == 568
    assert corrupt.counts(568) == (85, 28)
    assert corrupt.lengths(568) == (512, 114)


@given(
    tokens=st.integers(2, 600),
    rate=st.floats(0.05, 0.9),
    mean_span=st.floats(1, 12),
    seed=st.integers(0, 2**31 - 1),
)
def test_properties(tokens, rate, mean_span, seed):
    corrupt = SpanCorruption(
        SimpleNamespace(sentinel_ids=range(-1, -900, -1), end_token_id=1),
        rate,
        mean_span,
        seed,
    )
    text = np.arange(2, tokens + 2)
    inputs, targets = corrupt(text, example=7)
    assert (len(inputs), len(targets)) == corrupt.lengths(tokens)
    assert _restore(inputs, targets, list(range(-1, -900, -1))) == text.tolist()
    noise, spans = corrupt.counts(tokens)
    assert noise == np.clip(round(tokens * rate), 1, tokens - 1)
    assert spans == min(max(round(noise / mean_span), 1), tokens - noise)
    mask = corrupt.noise_mask(tokens, np.random.default_rng(seed))
    assert mask.sum() == noise
    assert np.sum(np.diff(mask.astype(int), prepend=0) == 1) == spans
    assert not mask[0] and mask[-1]


@given(length=st.integers(8, 1500), rate=st.floats(0.05, 0.6), mean_span=st.floats(1, 8))
def test_no_more_tokens_would_fit(length, rate, mean_span):
    corrupt = SpanCorruption(ids, rate, mean_span)
    tokens = corrupt.tokens_for(length)
    assert corrupt.lengths(tokens)[0] <= length < corrupt.lengths(tokens + 1)[0]


def test_every_mask_is_as_likely_as_in_the_recipe():
    """T5's mask as its paper tells it: pairs of a way to cut 7 and a way to cut 5 into 3 parts."""
    cuts = {
        total: [parts for parts in product(range(1, total), repeat=3) if sum(parts) == total]
        for total in (7, 5)
    }
    masks = {
        tuple(chain.from_iterable([False] * k + [True] * t for k, t in zip(*cut, strict=True)))
        for cut in product(cuts[7], cuts[5])
    }
    corrupt = SpanCorruption(ids, rate=5 / 12, mean_span=5 / 3)
    assert corrupt.counts(12) == (5, 3)
    rng = np.random.default_rng(0)
    counts = Counter(tuple(corrupt.noise_mask(12, rng).tolist()) for _ in range(20_000))
    assert set(counts) == masks
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_mask_is_a_function_of_seed_epoch_and_example():
    text = np.arange(2, 300)
    first = SpanCorruption(ids, seed=3)(text, 5, 2)[0]
    np.testing.assert_array_equal(first, SpanCorruption(ids, seed=3)(text, 5, 2)[0])
    for seed, example, epoch in ((4, 5, 2), (3, 6, 2), (3, 5, 3)):
        assert not np.array_equal(first, SpanCorruption(ids, seed=seed)(text, example, epoch)[0])


def _rows(dataset):
    """The examples of a dataset as pairs of inputs and targets without padding."""
    for x, y, weights in dataset:
        decoder = x["decoder_token_ids"].numpy()
        real = x["decoder_padding_mask"].numpy()
        np.testing.assert_array_equal(weights.numpy(), real.astype("float32"))
        np.testing.assert_array_equal((decoder[:, 1:])[real[:, 1:]], y.numpy()[:, :-1][real[:, 1:]])
        inputs, mask = x["encoder_token_ids"].numpy(), x["encoder_padding_mask"].numpy()
        for row in range(len(decoder)):
            yield inputs[row][mask[row]].tolist(), y.numpy()[row][real[row]].tolist()
            assert not inputs[row][~mask[row]].any() and not decoder[row][~real[row]].any()


def _restored(dataset, tokenizer):
    return [
        _restore(*pair, tokenizer.sentinel_ids, tokenizer.end_token_id) for pair in _rows(dataset)
    ]


def _corpus_stream(speeches, tokenizer):
    """All tokens of the corpus, with an end token between documents."""
    stream = []
    for document in speeches:
        stream += [*tokenizer.encode(document.text), tokenizer.end_token_id]
    return stream[:-1]


def test_rows_are_the_corpus_and_full(speeches, sentinelled):
    dataset = span_corruption_examples(speeches[:3], sentinelled, 8, 128, training=False)
    rows = _restored(dataset, sentinelled)
    assert list(chain.from_iterable(rows)) == _corpus_stream(speeches[:3], sentinelled)
    assert {len(inputs) for inputs, _ in list(_rows(dataset))[:-1]} == {128}
    for x, _, _ in dataset:
        assert np.all(x["decoder_token_ids"][:, 0] == sentinelled.start_token_id)


def test_format(speeches, sentinelled):
    dataset = span_corruption_examples(speeches[:2], sentinelled, 8, 128)
    source, target = (tf.TensorSpec((8, length), tf.int32) for length in (128, 29))
    assert SpanCorruption(sentinelled).lengths(141) == (128, 29)
    assert dataset.element_spec == (
        {
            "encoder_token_ids": source,
            "encoder_padding_mask": tf.TensorSpec((8, 128), tf.bool),
            "decoder_token_ids": target,
            "decoder_padding_mask": tf.TensorSpec((8, 29), tf.bool),
        },
        target,
        tf.TensorSpec((8, 29), tf.float32),
    )


def test_epochs_have_the_same_rows_in_another_order_with_other_spans(speeches, sentinelled):
    ordered = span_corruption_examples(speeches[:3], sentinelled, 8, 128, training=False)
    rows = _restored(ordered, sentinelled)
    options = {"batch_size": len(rows), "sequence_length": 128, "epochs": 2}
    batches = list(span_corruption_examples(speeches[:3], sentinelled, **options))
    epochs = [_restored([batch], sentinelled) for batch in batches]
    assert epochs[0] != epochs[1]
    assert sorted(rows) == sorted(epochs[0]) == sorted(epochs[1])
    first, second = (sorted(_rows([batch])) for batch in batches)
    assert first != second
    static = span_corruption_examples(speeches[:3], sentinelled, **options, dynamic=False)
    first, second = (sorted(_rows([batch])) for batch in static)
    assert first == second == sorted(_rows(ordered))


def test_too_few_sentinels(speeches, sentinelled):
    with pytest.raises(ValueError, match="114 spans, and the tokenizer only 40 sentinels"):
        span_corruption_examples(speeches, sentinelled, 8, 2048)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"rate": 15}, "between 0 and 1"), ({"mean_span": 0.5}, "mean_span=0.5")],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpanCorruption(ids, **arguments)

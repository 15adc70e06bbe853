from collections import Counter
from itertools import groupby

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from keras_llm.objectives import PermutationLM, permutation_lm_examples
from keras_llm.tokenizers import WordPieceTokenizer

PAD, UNK, CLS, SEP, MASK = range(5)
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def vocabulary():
    return WordPieceTokenizer([*SPECIALS, *"abcdefghijklmnopqrstuvwxyz"])


def batch(rows, length, seed=0):
    """Texts with separators inside, [SEP] [CLS] at their end, and padding."""
    rng = np.random.default_rng(seed)
    ids = np.full((rows, length), PAD, "int32")
    for row in ids:
        size = rng.integers(0, length - 1)
        tokens = rng.integers(5, 31, size)
        tokens[rng.random(size) < 0.1] = SEP
        row[: size + 2] = [*tokens, SEP, CLS]
    return ids


def plain(rows, length):
    """Texts without any special token."""
    return tf.fill((rows, length), 7)


def permuted(permute, ids, *names):
    return {name: value.numpy() for name, value in permute(tf.constant(ids), *names).items()}


def predicted(result, i):
    return result["mask_positions"][i][result["weights"][i] == 1]


@settings(max_examples=60)
@given(
    length=st.integers(3, 40),
    rate=st.floats(0.05, 1),
    max_span=st.integers(1, 9),
    seed=st.integers(0, 2**31 - 1),
)
def test_properties(vocabulary, length, rate, max_span, seed):
    ids = batch(5, length, seed)
    result = permuted(PermutationLM(vocabulary, rate, max_span, seed=seed), ids, tf.range(5))
    for i, row in enumerate(ids):
        positions, total = predicted(result, i), np.sum(row > 4)
        assert len(positions) == (max(1, round(rate * total)) if total else 0)
        assert list(positions) == sorted(set(positions))
        assert np.all(row[positions] > 4), "a special token or padding is to be predicted"
        np.testing.assert_array_equal(result["labels"][i][: len(positions)], row[positions])
        unused = slice(len(positions), None)
        for name in ("mask_positions", "labels", "weights"):
            assert not result[name][i][unused].any()

        # The mask is that of one order: who sees k predicted tokens is the k-th of them.
        chosen = np.isin(np.arange(length), positions)
        mask = result["attention_mask"][i]
        order = {position: mask[position, chosen].sum() for position in positions}
        assert sorted(order.values()) == list(range(len(positions)))
        for a, b in np.ndindex(mask.shape):
            precedes = not chosen[b] or (chosen[a] and order[b] < order[a])
            assert mask[a, b] == precedes


@pytest.mark.parametrize(("rate", "length"), [(1 / 6, 510), (0.3, 100), (1, 50)])
def test_the_rate_is_exact(vocabulary, rate, length):
    permute = PermutationLM(vocabulary, rate)
    chosen = permuted(permute, plain(50, length), tf.range(50))["weights"]
    assert (chosen.sum(axis=1) == round(rate * length)).all()


def test_every_order_is_as_likely(vocabulary):
    result = permuted(PermutationLM(vocabulary, rate=0.5), plain(6000, 6), tf.range(6000))
    orders = Counter()
    for i in range(6000):
        positions = predicted(result, i)
        seen = result["attention_mask"][i][np.ix_(positions, positions)].sum(axis=1)
        orders[tuple(seen)] += 1
    assert len(orders) == 6
    assert stats.chisquare(list(orders.values())).pvalue > 1e-3


@pytest.mark.parametrize("max_span", [1, 5])
def test_every_length_of_span_is_as_likely(vocabulary, max_span):
    """At a low rate, at which spans hardly ever touch; the last one is what is left over."""
    chosen = PermutationLM(vocabulary, 0.01, max_span)._choose(
        plain(200, 4000), [0, 0, tf.range(200)]
    )
    lengths = Counter()
    for row in chosen.numpy():
        runs = [len(list(run)) for is_chosen, run in groupby(row) if is_chosen]
        lengths.update(runs[:-1])
    touching = sum(n for length, n in lengths.items() if length > max_span)
    assert touching < 0.03 * sum(lengths.values())
    if max_span > 1:
        counts = [lengths[length] for length in range(1, max_span + 1)]
        assert stats.chisquare(counts).pvalue > 1e-3


def test_spans_stand_anywhere_in_their_contexts(vocabulary):
    """Single tokens in contexts of six: each of the six places is as likely, in every context."""
    chosen = PermutationLM(vocabulary, 1 / 6, max_span=1)._choose(
        plain(3000, 30), [0, 0, tf.range(3000)]
    )
    places = chosen.numpy().reshape(3000, 5, 6)
    assert (places.sum(axis=2) == 1).all()
    for context in range(5):
        assert stats.chisquare(places[:, context].sum(axis=0)).pvalue > 1e-3
    # One context's place says nothing of the next one's.
    pairs = np.argmax(places, axis=2)
    table = np.histogram2d(pairs[:, 0], pairs[:, 1], bins=6)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_pure_function_of_seed_epoch_and_example(vocabulary):
    ids, names = plain(20, 30), tf.range(100, 120)
    for dynamic in (False, True):
        permute = PermutationLM(vocabulary, dynamic=dynamic)
        epochs = [permuted(permute, ids, names, epoch)["attention_mask"] for epoch in (0, 1, 0)]
        np.testing.assert_array_equal(epochs[0], epochs[2])
        assert np.array_equal(epochs[0], epochs[1]) != dynamic
    other = permuted(PermutationLM(vocabulary, seed=1), ids, names)["attention_mask"]
    assert not np.array_equal(other, epochs[0])


def test_depends_on_the_example_alone(vocabulary):
    """Not on its batch, and the same in a graph; epochs may differ within a batch."""
    ids, names = tf.constant(batch(20, 30)), tf.range(100, 120)
    permute = PermutationLM(vocabulary)
    together = permuted(tf.function(permute), ids, names, tf.constant([3, 4] * 10))
    for i in (0, 1, 19):
        alone = permuted(permute, ids[i : i + 1], names[i : i + 1], 3 + i % 2)
        for name, value in alone.items():
            np.testing.assert_array_equal(value[0], together[name][i])


@pytest.mark.parametrize("rate", [0, -0.1, 1.1])
def test_bad_rate(vocabulary, rate):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        PermutationLM(vocabulary, rate)


def test_bad_span(vocabulary):
    with pytest.raises(ValueError, match="max_span=0"):
        PermutationLM(vocabulary, max_span=0)


# === permutation_lm_examples ===

TEXTS = ["a b c d e f g", "h i", "j k l m n o p q r s t u v w"]


def test_rows_hold_the_whole_corpus_with_separators_and_segments(vocabulary):
    dataset = permutation_lm_examples(TEXTS, vocabulary, 3, 8, training=False)
    (x, y, weights), (last, _, _) = dataset
    assert x["token_ids"].shape == (3, 8) and y.shape == weights.shape == (3, 1)
    rows = np.concatenate([x["token_ids"], last["token_ids"]])
    masks = np.concatenate([x["padding_mask"], last["padding_mask"]])
    segments = np.concatenate([x["segment_ids"], last["segment_ids"]])
    texts = []
    for row, mask, segment in zip(rows, masks, segments, strict=True):
        size = mask.sum()
        assert mask[:size].all() and (row[size:] == PAD).all()
        assert list(row[size - 2 : size]) == [SEP, CLS]
        texts.extend(row[: size - 2])
        separators = [np.sum(row[:position] == SEP) for position in range(size)]
        np.testing.assert_array_equal(segment[:size], separators)
    expected = [*vocabulary.encode(TEXTS[0]), SEP, *vocabulary.encode(TEXTS[1]), SEP]
    assert texts == [*expected, *vocabulary.encode(TEXTS[2])]
    assert masks[:-1].all() and not masks[-1].all()


def test_examples_are_the_rows_permuted(vocabulary):
    dataset = permutation_lm_examples(TEXTS, vocabulary, 3, 10, rate=0.4, seed=5, training=False)
    x, y, weights = next(iter(dataset))
    permute = PermutationLM(vocabulary, rate=0.4, seed=5)
    expected = permuted(permute, x["token_ids"], tf.range(3))
    np.testing.assert_array_equal(x["attention_mask"], expected["attention_mask"])
    np.testing.assert_array_equal(x["mask_positions"], expected["mask_positions"])
    np.testing.assert_array_equal(y, expected["labels"])
    np.testing.assert_array_equal(weights, expected["weights"])


def test_other_orders_in_every_epoch_and_the_same_after_skipping(vocabulary):
    def batches(**kwargs):
        dataset = permutation_lm_examples(TEXTS, vocabulary, 1, 12, epochs=2, **kwargs)
        return [(x["token_ids"].numpy(), x["attention_mask"].numpy()) for x, _, _ in dataset]

    for dynamic in (True, False):
        rows = batches(dynamic=dynamic)
        assert len(rows) == 6
        by_row = {}
        for ids, mask in rows:
            by_row.setdefault(ids.tobytes(), []).append(mask.tobytes())
        assert len(by_row) == 3
        changed = [first != second for first, second in by_row.values()]
        assert any(changed) == dynamic
    dataset = permutation_lm_examples(TEXTS, vocabulary, 1, 12, epochs=2).skip(4)
    skipped = [x["attention_mask"].numpy() for x, _, _ in dataset]
    np.testing.assert_array_equal(skipped, [mask for _, mask in batches()][4:])


def test_what_is_wrong_is_said_at_once(vocabulary):
    with pytest.raises(ValueError, match="sequence_length=2 must be at least 3"):
        permutation_lm_examples(TEXTS, vocabulary, 1, 2)
    with pytest.raises(TypeError, match="read only once"):
        permutation_lm_examples(iter(TEXTS), vocabulary, 1)

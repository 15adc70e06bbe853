from collections import Counter
from itertools import chain, permutations
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from keras_llm.objectives import Denoising, denoising_examples

MASK, END = -1, -2
ids = SimpleNamespace(mask_token_id=MASK, end_token_id=END)
shares = st.floats(0, 0.9)


def _text(*sizes):
    """Sentences of so many tokens, each token another one."""
    tokens = iter(range(1, sum(sizes) + 1))
    return [[next(tokens) for _ in range(size)] for size in sizes]


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    infilling=shares,
    deletion=shares,
    mean_span=st.floats(0.5, 6),
    permute=st.booleans(),
    rotate=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_properties(sizes, infilling, deletion, mean_span, permute, rotate, seed):
    text = _text(*sizes)
    spoil = Denoising(ids, infilling, mean_span, deletion, permute, rotate, seed)
    inputs, targets = (values.tolist() for values in spoil(text, example=3))
    assert targets == [*chain(*text), END]
    assert inputs.pop() == END
    kept = [token for token in inputs if token != MASK]
    total = sum(sizes)
    left = total - round(deletion * total)
    replaced = round(infilling * left)
    assert len(kept) == len(set(kept)) == left - replaced
    masks = len(inputs) - len(kept)
    assert masks <= replaced and (masks > 0) == (replaced > 0)
    # Within a sentence order stays; turned back, sentences are whole again.
    sentence = {token: number for number, tokens in enumerate(text) for token in tokens}
    turns = 0
    for number in range(len(sizes)):
        own = [token for token in kept if sentence[token] == number]
        turns += own != sorted(own)
        if not rotate:
            assert own == sorted(own)
    assert turns <= 1  # the sentence in which the rotation cuts
    if not permute and not rotate:
        assert kept == sorted(kept)


def test_span_lengths_are_those_of_the_recipe():
    """Drawn one by one until they are enough, the last one cut: as in fairseq and the paper."""
    rng = np.random.default_rng(0)

    def recipe():
        lengths = []
        while sum(lengths) < 30:
            lengths.append(min(int(rng.poisson(3)), 30 - sum(lengths)))
        return lengths

    spoil = Denoising(ids)
    ours, theirs = Counter(), Counter()
    numbers = [], []
    for _ in range(3000):
        for counter, count, lengths in (
            (ours, numbers[0], spoil.span_lengths(30, rng).tolist()),
            (theirs, numbers[1], recipe()),
        ):
            assert sum(lengths) == 30
            counter.update(lengths)
            count.append(len(lengths))
    keys = [length for length in theirs if theirs[length] > 20]
    counts = [[counter[length] for length in keys] for counter in (ours, theirs)]
    assert stats.chi2_contingency(counts).pvalue > 1e-4
    assert stats.ks_2samp(*numbers).pvalue > 1e-4
    # All but the last of a row are Poisson's, but for what the end of a row selects.
    assert ours[0] / sum(ours.values()) == pytest.approx(np.exp(-3), abs=0.01)


def test_every_place_of_the_masks_is_as_likely(monkeypatch):
    """Two spans, of 2 and of 0 tokens, among four tokens that stay: 6 * 5 arrangements / 2."""
    spoil = Denoising(ids, infilling_rate=1 / 3, permute=False)
    monkeypatch.setattr(spoil, "span_lengths", lambda tokens, rng: np.array([2, 0]))
    counts = Counter(tuple(spoil(_text(6), example)[0].tolist()) for example in range(6000))
    assert len(counts) == 15
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4
    for places in counts:
        first, second = (place for place, token in enumerate(places) if token == MASK)
        assert list(places[:first]) == list(range(1, first + 1))
        assert list(places[first + 1 : second]) == list(range(first + 3, second + 2))


def test_every_order_and_rotation_is_as_likely():
    text = _text(2, 3, 1)
    spoil = Denoising(ids, infilling_rate=0)
    counts = Counter(tuple(spoil(text, example)[0].tolist()) for example in range(3000))
    assert set(counts) == {(*chain(*order), END) for order in permutations(text)}
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4
    spoil = Denoising(ids, infilling_rate=0, permute=False, rotate=True)
    counts = Counter(tuple(spoil(text, example)[0].tolist()) for example in range(3000))
    whole = [*chain(*text)]
    assert set(counts) == {(*whole[i:], *whole[:i], END) for i in range(6)}
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_every_token_is_deleted_as_often():
    spoil = Denoising(ids, infilling_rate=0, deletion_rate=0.3, permute=False)
    counts = Counter(chain(*(spoil(_text(10), example)[0].tolist() for example in range(2000))))
    del counts[END]
    assert sum(counts.values()) == 7 * 2000
    assert stats.chisquare([counts[token] for token in range(1, 11)]).pvalue > 1e-4


def test_noise_is_a_function_of_seed_epoch_and_example():
    text = _text(9, 9, 9)
    first = Denoising(ids, seed=3)(text, 5, 2)[0].tolist()
    assert Denoising(ids, seed=3)(text, 5, 2)[0].tolist() == first
    for seed, example, epoch in ((4, 5, 2), (3, 6, 2), (3, 5, 3)):
        assert Denoising(ids, seed=seed)(text, example, epoch)[0].tolist() != first


def test_rows_are_the_documents(speeches, tokenizer):
    texts = [speeches[0].text[:3000], "A cat sat. It purred.", speeches[1].text[:3000]]
    targets, inputs = [], []
    for x, y, weights in denoising_examples(texts, tokenizer, 4, 64, training=False):
        real = x["decoder_padding_mask"].numpy()
        np.testing.assert_array_equal(weights.numpy(), real.astype("float32"))
        read, asked = x["decoder_token_ids"].numpy(), y.numpy()
        assert np.all(read[:, 0] == tokenizer.start_token_id)
        np.testing.assert_array_equal(read[:, 1:][real[:, 1:]], asked[:, :-1][real[:, 1:]])
        targets += [row[own].tolist() for row, own in zip(asked, real, strict=True)]
        encoder, mask = x["encoder_token_ids"].numpy(), x["encoder_padding_mask"].numpy()
        inputs += [row[own].tolist() for row, own in zip(encoder, mask, strict=True)]
    end = tokenizer.end_token_id
    assert all(row.pop() == end for row in targets) and all(row.pop() == end for row in inputs)
    assert list(chain(*targets)) == list(chain(*map(tokenizer.encode, texts)))
    assert tokenizer.encode(texts[1]) in targets  # a row is of one document
    for row, target in zip(inputs, targets, strict=True):
        assert len(row) <= len(target)
        kept = Counter(row)
        masks = kept.pop(tokenizer.mask_token_id)
        assert masks > 0 and kept <= Counter(target)
        assert kept.total() == len(target) - round(0.3 * len(target))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"infilling_rate": 1}, "infilling_rate=1 "),
        ({"deletion_rate": -0.1}, "deletion_rate=-0.1"),
        ({"mean_span": 0}, "mean_span=0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Denoising(ids, **arguments)

from collections import Counter
from itertools import chain

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from keras_llm.objectives import MaskedLM
from keras_llm.objectives.randomness import uniform
from keras_llm.tokenizers import BytePairTokenizer, UnigramTokenizer, WordPieceTokenizer

PAD, UNK, CLS, SEP, MASK = range(5)
NUM_WORDS, NUM_PIECES = 40, 20  # ids 5 to 44 begin a word, 45 to 64 go on with it
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENS += [f"w{i}" for i in range(NUM_WORDS)] + [f"##p{i}" for i in range(NUM_PIECES)]


@pytest.fixture(scope="module")
def vocabulary():
    return WordPieceTokenizer(TOKENS)


def _batch(rows, length=64, seed=0):
    """Pairs of random segments, packed and padded."""
    rng = np.random.default_rng(seed)
    batch = np.full((rows, length), PAD, "int32")
    for row in batch:
        first, second = rng.integers(1, (length - 3) // 2 + 1, 2)
        tokens = rng.choice([UNK, *range(5, len(TOKENS))], first + second)
        row[: first + second + 3] = [CLS, *tokens[:first], SEP, *tokens[first:], SEP]
    return batch


def _numpy(masked):
    return {name: value.numpy() for name, value in masked.items()}


def _words(row):
    """The words of a row, each a list of positions, found in the tokens' spelling."""
    words, before_was_special = [], True
    for position, id in enumerate(row):
        special = id < 5
        if not special and TOKENS[id].startswith("##") and not before_was_special:
            words[-1].append(position)
        elif not special:
            words.append([position])
        before_was_special = special
    return words


lengths = st.integers(8, 40)
rates = st.floats(0.05, 0.9)
seeds = st.integers(0, 2**31 - 1)


@settings(max_examples=60, deadline=None)
@given(
    length=lengths,
    rate=rates,
    seed=seeds,
    whole_word=st.booleans(),
    max_ngram=st.integers(1, 4),
    limit=st.integers(1, 40),
)
def test_properties(vocabulary, length, rate, seed, whole_word, max_ngram, limit):
    ids = _batch(5, length, seed)
    limit = min(limit, length)
    mask = MaskedLM(vocabulary, rate, limit, whole_word, max_ngram, seed=seed)
    masked = _numpy(mask(tf.constant(ids), tf.range(5)))
    assert masked["mask_positions"].shape == masked["weights"].shape == (5, limit)
    for i, row in enumerate(ids):
        used = masked["weights"][i] == 1
        positions = masked["mask_positions"][i][used]
        count = min(limit, max(1, round(rate * np.sum(row > 4)))) if (row > 4).any() else 0
        if whole_word:
            assert len(positions) <= count
            left = [word for word in _words(row) if not set(word) & set(positions)]
            # Greedy: no word is left that would still fit.
            assert all(len(word) > count - len(positions) for word in left)
            for word in _words(row):
                assert set(word) <= set(positions) or not set(word) & set(positions)
        else:
            assert len(positions) == count
        assert list(positions) == sorted(set(positions))
        assert np.all(row[positions] > 4), "a special token or padding is to be predicted"
        assert np.array_equal(masked["labels"][i][used], row[positions])
        # Unused slots are all zeros and come last; nothing but the chosen tokens has changed.
        assert list(used) == sorted(used, reverse=True)
        assert not masked["mask_positions"][i][~used].any() and not masked["labels"][i][~used].any()
        changed = np.flatnonzero(masked["token_ids"][i] != row)
        assert set(changed) <= set(positions)
        assert np.all(
            (masked["token_ids"][i][changed] == MASK) | (masked["token_ids"][i][changed] > 4)
        )


@pytest.mark.parametrize("whole_word", [False, True])
def test_rates(vocabulary, whole_word):
    """80 % [MASK], 10 % random and 10 % unchanged, each within what chance allows."""
    ids = _batch(3000)
    masked = _numpy(MaskedLM(vocabulary, whole_word=whole_word)(tf.constant(ids), tf.range(3000)))
    used = masked["weights"] == 1
    labels = masked["labels"][used]
    fate = np.take_along_axis(masked["token_ids"], masked["mask_positions"], axis=1)[used]
    total = len(labels)
    assert total > 10_000
    # One random token in 60 is the very token that it replaces.
    same = 0.1 + 0.1 / (NUM_WORDS + NUM_PIECES)
    assert stats.binomtest(int(np.sum(fate == MASK)), total, 0.8).pvalue > 1e-4
    assert stats.binomtest(int(np.sum(fate == labels)), total, same).pvalue > 1e-4
    substitutes = fate[(fate != MASK) & (fate != labels)]
    counts = np.bincount(substitutes, minlength=len(TOKENS))
    assert not counts[:5].any()
    assert stats.chisquare(counts[5:]).pvalue > 1e-4


def test_every_position_is_as_likely(vocabulary):
    ids = np.tile([CLS, *[7] * 20, SEP, *[8] * 20, SEP], (5000, 1)).astype("int32")
    masked = _numpy(MaskedLM(vocabulary)(tf.constant(ids), tf.range(5000)))
    counts = np.bincount(masked["mask_positions"].ravel(), minlength=ids.shape[1])
    assert counts.sum() == 5000 * 6
    assert stats.chisquare(counts[ids[0] > 4]).pvalue > 1e-4


def test_random_numbers_are_random():
    numbers = uniform([1, 2, tf.range(20_000)], 0, 32).numpy()
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-4
    other = [
        uniform(keys, stream, 32).numpy()
        for keys, stream in (
            ([2, 2, tf.range(20_000)], 0),
            ([1, 3, tf.range(20_000)], 0),
            ([1, 2, tf.range(20_000)], 1),
        )
    ]
    neighbours = [numbers[:, 1:], numbers[1:]]
    for pair in [
        *((numbers, more) for more in other),
        *((numbers[: len(n), : n.shape[1]], n) for n in neighbours),
    ]:
        assert abs(np.corrcoef(pair[0].ravel(), pair[1].ravel())[0, 1]) < 5 / np.sqrt(pair[0].size)


def _ngrams(row, count, max_ngram, rng):
    """The recipe, word by word, for a row whose words are of one token: the positions chosen."""
    chosen = set()
    positions = [position for position, id in enumerate(row) if id > 4]
    for start in rng.permutation(positions):
        ahead = [n for n in range(1, max_ngram + 1) if set(range(start, start + n)) <= {*positions}]
        shares = 1 / np.array(ahead)
        n = rng.choice(ahead, p=shares / shares.sum())
        for position in range(start, start + n):
            if position in chosen or len(chosen) == count:
                break
            chosen.add(int(position))
    return tuple(sorted(chosen))


def test_ngrams_are_as_likely_as_in_the_recipe(vocabulary):
    row = [CLS, *[7] * 6, SEP, *[8] * 4, SEP, PAD]
    draws = 10_000
    mask = MaskedLM(vocabulary, rate=0.4, max_ngram=3)
    masked = _numpy(mask(tf.constant([row] * draws), tf.range(draws)))
    assert masked["weights"][:, :4].all() and not masked["weights"][:, 4:].any()
    ours = Counter(map(tuple, masked["mask_positions"][:, :4].tolist()))
    rng = np.random.default_rng(0)
    theirs = Counter(_ngrams(row, 4, 3, rng) for _ in range(draws))
    sets = [chosen for chosen in theirs if theirs[chosen] + ours[chosen] >= 20]
    counts = [[counter[chosen] for chosen in sets] for counter in (ours, theirs)]
    assert np.sum(counts) > 0.99 * 2 * draws
    assert stats.chi2_contingency(counts).pvalue > 1e-4


def test_ngrams_are_as_long_as_said(vocabulary):
    """n words as often as 1 / n, of those that stand before the next special token."""
    sizes = tf.constant([[0, 2, 1, 1, 3, 0, 1]] * 3000)  # tokens of words, 0 for special ones
    mask = MaskedLM(vocabulary, max_ngram=3)
    runs, tokens = mask._runs(sizes, uniform([0, tf.range(3000)], 3, 7))
    np.testing.assert_array_equal(tokens[0, 1], [2, 3, 4])
    lengths = np.sum(runs, axis=-1).T  # (words, draws)
    for word, most in ((0, 0), (4, 1), (5, 0), (6, 1)):
        assert np.all(lengths[word] == most)
    for word, most in ((1, 3), (2, 3), (3, 2)):
        counts = np.bincount(lengths[word], minlength=most + 1)[1:]
        shares = 1 / np.arange(1, most + 1)
        assert stats.chisquare(counts, 3000 * shares / shares.sum()).pvalue > 1e-4


def test_static_and_dynamic(vocabulary):
    ids, names = tf.constant(_batch(50)), tf.range(50)
    for dynamic in (False, True):
        mask = MaskedLM(vocabulary, dynamic=dynamic)
        epochs = [_numpy(mask(ids, names, epoch)) for epoch in (0, 1, 0)]
        assert np.array_equal(epochs[0]["token_ids"], epochs[2]["token_ids"])
        same = np.array_equal(epochs[0]["mask_positions"], epochs[1]["mask_positions"])
        assert same != dynamic
    other = _numpy(MaskedLM(vocabulary, seed=1)(ids, names))
    assert not np.array_equal(other["mask_positions"], epochs[0]["mask_positions"])


def test_mask_depends_on_the_example_alone(vocabulary):
    """Not on its batch, and the same in a graph; epochs may differ within a batch."""
    ids, names = tf.constant(_batch(20)), tf.range(100, 120)
    mask = MaskedLM(vocabulary, whole_word=True)
    together = _numpy(tf.function(mask)(ids, names, tf.constant([3, 4] * 10)))
    for i in (0, 1, 19):
        alone = _numpy(mask(ids[i : i + 1], names[i : i + 1], 3 + i % 2))
        for name, value in alone.items():
            np.testing.assert_array_equal(value[0], together[name][i])


@pytest.mark.parametrize("kind", ["wordpiece", "byte_pair", "unigram"])
def test_whole_words_of_real_text(kind, speeches):
    """No word is predicted in part, however a tokenizer writes where words begin."""
    train = {
        "wordpiece": lambda texts: WordPieceTokenizer.train(texts, 500),
        "byte_pair": lambda texts: BytePairTokenizer.train(texts, 500, BytePairTokenizer.ROBERTA),
        "unigram": lambda texts: UnigramTokenizer.train(texts, 500, UnigramTokenizer.XLNET),
    }[kind]
    tokenizer = train([speech.text[:20_000] for speech in speeches[:4]])
    sentence = "The unconstitutional misappropriation of extraordinary expenditures persisted"
    words = sentence.split()
    text = [tokenizer.encode(word if i == 0 else f" {word}") for i, word in enumerate(words)]
    number = np.repeat(range(len(words)), [len(ids) for ids in text])  # of each token's word
    ids = [tokenizer.start_token_id, *chain(*text), tokenizer.end_token_id]
    assert ids[1:-1] == tokenizer.encode(sentence) and len(ids) > 2 * len(words)
    mask = MaskedLM(tokenizer, rate=0.5, whole_word=True)
    masked = _numpy(mask(tf.constant([ids] * 200), tf.range(200)))
    chosen = np.zeros((200, len(ids)), bool)
    for own, positions, used in zip(
        chosen, masked["mask_positions"], masked["weights"] == 1, strict=True
    ):
        own[positions[used]] = True
    for word in range(len(words)):
        own = chosen[:, 1:-1][:, number == word]
        assert np.all(own.all(axis=1) == own.any(axis=1))
        assert own.any() or own.shape[1] > masked["weights"].shape[1]
    assert not chosen[:, [0, -1]].any()


def test_nothing_to_predict(vocabulary):
    masked = _numpy(
        MaskedLM(vocabulary)(tf.constant([[CLS, SEP, UNK, SEP, PAD]]), tf.constant([0]))
    )
    assert not masked["weights"].any()


@pytest.mark.parametrize("rate", [0, 1, -0.1, 15])
def test_bad_rate(vocabulary, rate):
    with pytest.raises(ValueError, match="between 0 and 1"):
        MaskedLM(vocabulary, rate)


def test_bad_max_predictions(vocabulary):
    with pytest.raises(ValueError, match="max_predictions=0"):
        MaskedLM(vocabulary, max_predictions=0)


def test_bad_max_ngram(vocabulary):
    with pytest.raises(ValueError, match="max_ngram=0"):
        MaskedLM(vocabulary, max_ngram=0)

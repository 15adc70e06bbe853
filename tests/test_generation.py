"""A model here is a table: random logits for every beginning, which the cache numbers."""

import itertools
import json

import battery
import keras
import keras_hub
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from keras_llm.generation import (
    NoRepeatNGram,
    RepetitionPenalty,
    beam_search,
    greedy_search,
    without_repeats,
)

VOCABULARY, MAX_LENGTH, START, END = 4, 4, 1, 2


class Table:
    """Logits (beginnings, vocabulary) for each batch row; a beginning is its tokens as digits."""

    def __init__(self, seed, batch=2, repeats=1):
        rng = np.random.default_rng(seed)
        size = VOCABULARY**MAX_LENGTH * 2
        self.logits = rng.normal(size=(batch, size, VOCABULARY)).astype("float32") * 2
        self.repeats = repeats
        rows = np.repeat(np.arange(batch), repeats).astype("int32")
        self.cache = {"row": rows, "code": np.zeros(batch * repeats, "int32")}
        self.calls = []

    def __call__(self, tokens, index, cache):
        self.calls.append(index)
        code = cache["code"] * VOCABULARY + keras.ops.where(index > 0, tokens, 0)
        flat = self.logits.reshape(-1, VOCABULARY)
        logits = keras.ops.take(flat, cache["row"] * self.logits.shape[1] + code, axis=0)
        return logits, {"row": cache["row"], "code": code}

    def log_probability(self, row, sequence):
        """Adds up the log-probabilities of a sequence, token by token."""
        code, total = 0, 0.0
        for i, token in enumerate(sequence):
            code = code * VOCABULARY + (sequence[i - 1] if i else 0)
            logits = np.float64(self.logits[row, code])
            total += logits[token] - np.log(np.exp(logits).sum())
        return total


def all_sequences():
    """Every sequence that ends within the limit."""
    others = [token for token in range(VOCABULARY) if token != END]
    for length in range(MAX_LENGTH):
        for beginning in itertools.product(others, repeat=length):
            yield (*beginning, END)


def cut(sequence):
    """Drops the padding behind the end token."""
    sequence = [int(token) for token in sequence]
    return tuple(sequence[: sequence.index(END) + 1] if END in sequence else sequence)


def penalty(sequence, alpha):
    return ((5 + len(sequence)) / 6) ** alpha


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.6, 2.0]))
def test_enough_beams_find_the_best_of_all_sequences(seed, alpha):
    beams = VOCABULARY**MAX_LENGTH
    table = Table(seed, repeats=beams)
    sequences, scores = beam_search(
        table, table.cache, 2, START, END, MAX_LENGTH, num_beams=beams, length_penalty=alpha
    )
    for row in range(2):
        expected = {s: table.log_probability(row, s) / penalty(s, alpha) for s in all_sequences()}
        best = max(expected, key=expected.get)
        assert cut(sequences[row]) == best
        assert float(scores[row]) == pytest.approx(expected[best], abs=1e-5)


def textbook_beam_search(table, row, beams, alpha):
    """Keeps the best beginnings, one Python list after the other, to the very end."""
    alive, ended = [()], {}
    for _ in range(MAX_LENGTH):
        longer = [(*beginning, token) for beginning in alive for token in range(VOCABULARY)]
        longer = sorted(longer, key=lambda s: -table.log_probability(row, s))[: 2 * beams]
        for s in longer:
            if s[-1] == END:
                ended[s] = table.log_probability(row, s) / penalty(s, alpha)
        alive = [s for s in longer if s[-1] != END][:beams]
    return max(ended, key=ended.get) if ended else alive[0]


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3]), st.sampled_from([0.0, 0.6, 2.0]))
def test_few_beams_equal_the_textbook(seed, beams, alpha):
    table = Table(seed, repeats=beams)
    sequences, _ = beam_search(
        table, table.cache, 2, START, END, MAX_LENGTH, num_beams=beams, length_penalty=alpha
    )
    for row in range(2):
        assert cut(sequences[row]) == textbook_beam_search(table, row, beams, alpha)


def log_probability_without_repeats(table, row, sequence, n):
    """Adds up log-probabilities where no n tokens, the start token among them, stand twice."""
    code, total, text = 0, 0.0, [START]
    for i, token in enumerate(sequence):
        code = code * VOCABULARY + (sequence[i - 1] if i else 0)
        seen = {tuple(text[j : j + n]) for j in range(len(text) - n + 1)}
        tokens = [t for t in range(VOCABULARY) if (*text[len(text) - n + 1 :], t) not in seen]
        if token not in tokens:
            return -np.inf
        logits = np.float64(table.logits[row, code])
        total += logits[token] - np.log(np.exp(logits[tokens]).sum())
        text.append(token)
    return total


@given(st.integers(0, 10**6), st.sampled_from([2, 3]))
def test_enough_beams_find_the_best_that_repeats_nothing(seed, n):
    beams = VOCABULARY**MAX_LENGTH
    table = Table(seed, repeats=beams)
    search = without_repeats(table, table.cache, 2 * beams, MAX_LENGTH, n)
    sequences, scores = beam_search(
        *search, 2, START, END, MAX_LENGTH, num_beams=beams, length_penalty=0.0
    )
    for row in range(2):
        expected = {s: log_probability_without_repeats(table, row, s, n) for s in all_sequences()}
        best = max(expected, key=expected.get)
        assert cut(sequences[row]) == best
        assert float(scores[row]) == pytest.approx(expected[best], abs=1e-5)


@given(st.integers(0, 10**6))
def test_greedy_appends_the_most_probable(seed):
    table = Table(seed)
    sequences = battery.numpy(greedy_search(table, table.cache, 2, START, END, MAX_LENGTH))
    for row in range(2):
        expected = ()
        while len(expected) < MAX_LENGTH and END not in expected:
            tokens = range(VOCABULARY)
            expected += (max(tokens, key=lambda t: table.log_probability(row, (*expected, t))),)
        assert cut(sequences[row]) == expected
        assert not sequences[row, len(expected) :].any(), "padding behind the end"


def test_searches_stop_as_soon_as_they_can():
    def ends_at_once(tokens, index, cache):
        calls.append(int(index))
        return keras.ops.one_hot(keras.ops.full_like(tokens, END), VOCABULARY) * 50, cache

    calls = []
    greedy_search(ends_at_once, (), 3, START, END, 100)
    assert calls == [0]
    calls.clear()
    beam_search(ends_at_once, (), 3, START, END, 100, num_beams=2)
    assert calls == [0]


def test_a_sequence_that_never_ends_is_cut_at_the_limit():
    def never_ends(tokens, index, cache):
        return keras.ops.one_hot(keras.ops.full_like(tokens, 3), VOCABULARY) * 50, cache

    assert battery.numpy(greedy_search(never_ends, (), 1, START, END, 3)).tolist() == [[3, 3, 3]]
    sequences, scores = beam_search(never_ends, (), 1, START, END, 3, num_beams=1)
    assert battery.numpy(sequences).tolist() == [[3, 3, 3]]
    assert float(scores[0]) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("beams", [0, 3])
def test_in_a_graph(beams):
    table = Table(seed=7, repeats=beams or 1)

    def search():
        if not beams:
            return greedy_search(table, table.cache, 2, START, END, MAX_LENGTH)
        return beam_search(table, table.cache, 2, START, END, MAX_LENGTH, num_beams=beams)

    battery.assert_close(battery.numpy(battery.compiled(search)()), battery.numpy(search()), 1e-6)


def test_errors():
    with pytest.raises(ValueError, match="max_length=0 must be at least 1"):
        greedy_search(None, (), 1, START, END, 0)
    with pytest.raises(ValueError, match="max_length=0 must be at least 1"):
        beam_search(None, (), 1, START, END, 0)
    with pytest.raises(ValueError, match="num_beams=0"):
        beam_search(None, (), 1, START, END, 5, num_beams=0)
    with pytest.raises(ValueError, match="length_penalty=-1"):
        beam_search(None, (), 1, START, END, 5, length_penalty=-1)


@pytest.mark.parametrize("inner", ["greedy", "beam"])
def test_repetition_penalty_equals_the_reference(inner):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    table = np.random.default_rng(0).normal(size=(9, 9)).astype("float32")  # the last token counts
    prompt = np.array([[1, 2, 0, 0, 0, 0, 0, 0], [7, 7, 7, 0, 0, 0, 0, 0]])
    lengths = [2, 3]

    def next_logits(prompt, cache, index):
        return ops.take(ops.array(table), prompt[:, index - 1], axis=0), None, cache

    sampler = {"greedy": "greedy", "beam": keras_hub.samplers.BeamSampler(num_beams=1)}[inner]
    written = RepetitionPenalty(sampler, 1.3)(
        next_logits, ops.array(prompt), index=2, mask=np.arange(8) < np.array(lengths)[:, None]
    )
    processor = transformers.RepetitionPenaltyLogitsProcessor(1.3)
    for text, length in zip(battery.numpy(written), lengths, strict=True):
        for i in range(length, 8):
            logits = torch.tensor(table[text[i - 1]][None])
            expected = processor(torch.tensor(text[None, :i]).long(), logits)
            assert text[i] == int(expected.argmax())


def test_repetition_penalty_keeps_the_seed_of_its_sampler():
    inner = keras_hub.samplers.TopKSampler(k=3, seed=7)
    sampler = RepetitionPenalty(inner, 1.1)
    assert sampler.variables is not None and sampler.variables[0] is inner.variables[0]
    copy = RepetitionPenalty.from_config(json.loads(json.dumps(sampler.get_config())))
    assert (copy.sampler.k, copy.sampler.seed, copy.penalty) == (3, 7, 1.1)
    with pytest.raises(ValueError, match=r"penalty=0\.5 must be at least 1"):
        RepetitionPenalty("greedy", 0.5)


@given(st.integers(0, 10**6), st.sampled_from([2, 3, 4]), st.booleans())
def test_no_repeat_ngram_equals_brute_force(seed, n, penalized):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(3, 3)).astype("float32")  # the last token alone counts: it repeats
    prompt, lengths = rng.integers(0, 3, (2, 9)), [2, 3]
    prompt *= np.arange(9) < np.array(lengths)[:, None]

    def next_logits(prompt, cache, index):
        return ops.take(ops.array(table), prompt[:, index - 1], axis=0), None, cache

    sampler = NoRepeatNGram(RepetitionPenalty("greedy", 1.2) if penalized else "greedy", n)
    mask = np.arange(9) < np.array(lengths)[:, None]
    written = battery.numpy(sampler(next_logits, ops.array(prompt), index=2, mask=mask))
    for text, length in zip(written, lengths, strict=True):
        for i in range(length, 9):
            seen = {tuple(text[j : j + n]) for j in range(i - n + 1)}
            logits = table[text[i - 1]].copy()
            for token in range(3):
                if penalized and token in text[:i]:
                    logits[token] *= 1.2 if logits[token] < 0 else 1 / 1.2
                if (*text[max(i - n + 1, 0) : i], token) in seen:
                    logits[token] = -np.inf
            if np.isfinite(logits).any():  # else every token is as good
                assert text[i] == logits.argmax()


def test_no_repeat_ngram_in_a_graph_and_in_a_file():
    def next_logits(prompt, cache, index):
        return ops.convert_to_tensor([[0.0, 3.0, 2.0]]), None, cache

    sampler = NoRepeatNGram(keras_hub.samplers.TopKSampler(k=1, seed=7), 2)
    copy = NoRepeatNGram.from_config(json.loads(json.dumps(sampler.get_config())))
    assert (copy.n, copy.sampler.k, copy.sampler.seed) == (2, 1, 7)
    assert copy.variables[0] is copy.sampler.variables[0]

    def write():
        return copy(next_logits, ops.zeros((1, 6), "int32"), index=1)

    assert battery.numpy(write()).tolist() == [[0, 1, 1, 2, 1, 0]]
    assert battery.numpy(battery.compiled(write)()).tolist() == [[0, 1, 1, 2, 1, 0]]
    short = NoRepeatNGram("greedy", 4)(next_logits, ops.zeros((1, 3), "int32"), index=1)
    assert battery.numpy(short).tolist() == [[0, 1, 1]]
    with pytest.raises(ValueError, match="n=1 must be at least 2"):
        NoRepeatNGram("greedy", 1)

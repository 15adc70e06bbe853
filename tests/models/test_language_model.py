import math
import re
from functools import partial
from itertools import chain, pairwise

import numpy as np
import pytest

from keras_llm.corpora import Corpus, Document
from keras_llm.models import LanguageModel, NGramLM, RecurrentLM
from keras_llm.models.language_model import TEXTS_AT_ONCE, TextScore, blocks_of_texts
from keras_llm.tokenizers import WordPieceTokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENIZER = WordPieceTokenizer([*SPECIALS, "a", "b", "c"])
UNK, START, END, A, B, C = 1, 2, 3, 5, 6, 7


class Alternating(LanguageModel):
    """After the start or b comes a with 3/4, else b with 3/4; the rest is shared evenly."""

    def __init__(self):
        self.tokenizer = TOKENIZER
        self.read = []

    def fit(self, texts):
        return self

    def log_probabilities(self, sequences):
        return [
            np.log([self.next_token([before])[0][token] for before, token in pairwise(ids)])
            for ids in sequences
        ]

    def next_token(self, ids, state=None):
        self.read += list(ids)
        expected = B if ids[-1] == A else A
        return np.where(np.arange(8) == expected, 3 / 4, 1 / 28), (state or 0) + len(ids)


def test_a_text_is_framed_by_start_and_end():
    frames = Alternating().frame(["A b", "", "d"])
    assert [ids.tolist() for ids in frames] == [[START, A, B, END], [START, END], [START, UNK, END]]


def test_perplexity_counts_the_end_and_not_the_start():
    # a, b: 3/4 each; [SEP]: 1/28
    expected = (3 / 4 * 3 / 4 / 28) ** (-1 / 3)
    assert Alternating().perplexity(["a b"]) == pytest.approx(expected)


def test_perplexity_is_of_all_tokens_together_not_a_mean_of_texts():
    model, texts = Alternating(), ["a b a b", "c"]
    nats = [-sum(np.log(p)) for p in ([0.75] * 4 + [1 / 28], [1 / 28] * 2)]
    assert model.perplexity(texts) == pytest.approx(math.exp(sum(nats) / 7))
    assert model.score(texts).tokens == 7


def test_bits_per_byte_is_of_the_bytes_of_the_text_as_given():
    model = Alternating()
    nats = -np.log([0.75, 0.75, 1 / 28]).sum()
    for text, size in {"a b": 3, "A  B\n": 5, "ä b": 4}.items():  # all are [a, b] to the tokenizer
        assert model.bits_per_byte([text]) == pytest.approx(nats / math.log(2) / size), text


def test_bits_per_byte_is_perplexity_in_other_units():
    score = TextScore(-30.0, 10, 60)
    assert score.bits_per_byte * 60 == pytest.approx(10 * math.log2(score.perplexity))


def test_texts_come_as_list_generator_or_corpus():
    texts = ["a b", "c", "a"]
    corpus = Corpus("letters", partial(iter, [Document(text) for text in texts]))
    expected = Alternating().perplexity(texts)
    assert Alternating().perplexity(text for text in texts) == expected
    assert Alternating().perplexity(corpus) == expected


def test_many_texts_stream_in_blocks():
    texts = [str(number) for number in range(2 * TEXTS_AT_ONCE + 1)]
    blocks = list(blocks_of_texts(iter(texts)))
    assert [len(block) for block in blocks] == [TEXTS_AT_ONCE, TEXTS_AT_ONCE, 1]
    assert list(chain(*blocks)) == texts


def test_greedy_takes_the_most_probable_and_stops_at_the_limit():
    assert Alternating().generate("c", max_new_tokens=4, temperature=0) == "c a b a b"
    assert Alternating().generate(max_new_tokens=3, temperature=0) == "a b a"
    assert Alternating().generate("c", max_new_tokens=0) == "c"


def test_each_token_is_read_once():
    model = Alternating()
    model.generate("c b", max_new_tokens=4, temperature=0)
    assert model.read == [START, C, B, A, B, A]  # the last one is not read any more


def test_the_state_is_passed_on():
    class Counting(Alternating):
        def next_token(self, ids, state=None):
            probabilities, state = super().next_token(ids, state)
            self.length = state
            return probabilities, state

    model = Counting()
    model.generate("c b", max_new_tokens=5, temperature=0)
    assert model.length == 3 + 4


def test_generation_ends_at_the_end_token():
    class Short(Alternating):
        def next_token(self, ids, state=None):
            return np.eye(8)[END if ids[-1] == B else B], None

    assert Short().generate("a", max_new_tokens=9) == "a b"


def test_tokens_without_text_are_never_written():
    class Mute(Alternating):
        def next_token(self, ids, state=None):
            return np.array([0.3, 0.3, 0.2, 0.0, 0.15, 0.05, 0.0, 0.0]), None

    assert Mute().generate(max_new_tokens=5) == "a a a a a"


@pytest.mark.parametrize(
    ("temperature", "shares"),
    [(1.0, [4 / 7, 2 / 7, 1 / 7]), (0.5, [16 / 21, 4 / 21, 1 / 21]), (1e9, [1 / 3] * 3)],
)
def test_samples_follow_the_probabilities_and_the_temperature(temperature, shares):
    class Dice(Alternating):
        def next_token(self, ids, state=None):
            return np.array([0.0, 0.3, 0.0, 0.0, 0.0, 0.4, 0.2, 0.1]), None

    text = Dice().generate("", 3000, temperature).split()
    counted = [text.count(letter) / len(text) for letter in "abc"]
    assert len(text) == 3000
    np.testing.assert_allclose(counted, shares, atol=0.03)


def test_temperatures_next_to_zero_are_greedy():
    greedy = Alternating().generate("a", 9, temperature=0)
    assert Alternating().generate("a", 9, temperature=1e-300) == greedy


def test_a_seed_decides_the_text():
    texts = [Alternating().generate("a", 20, 2.0, seed) for seed in (0, 0, 1, 2)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


# === All models alike ===


def models():
    ngrams = [
        NGramLM(TOKENIZER, order, smoothing)
        for order in (1, 2, 4)
        for smoothing in ("kneser_ney", "add_k")
    ]
    networks = [RecurrentLM(TOKENIZER, cell, hidden_dim=6) for cell in ("rnn", "gru", "lstm")]
    return ngrams + networks


def name(model):
    return re.sub(r"\W+", " ", f"{type(model).__name__} {getattr(model, 'cell', '')}").strip()


@pytest.fixture(params=models(), ids=name)
def fitted(request):
    options = {"verbose": 0} if isinstance(request.param, RecurrentLM) else {}
    request.param.fit(["a b c", "b b a", "c a b"], **options)
    return request.param


def test_reading_a_text_at_once_and_token_by_token_is_the_same(fitted):
    ids = np.array([START, A, B, UNK, C, C, A, END])
    at_once = fitted.log_probabilities([ids])[0]
    state, one_by_one = None, []
    for before, token in pairwise(ids):
        probabilities, state = fitted.next_token([before], state)
        assert probabilities.shape == (8,) and probabilities.min() > 0
        assert probabilities.sum() == pytest.approx(1, abs=1e-5)
        one_by_one.append(np.log(probabilities[token]))
    np.testing.assert_allclose(at_once, one_by_one, atol=1e-5)
    prefix, _ = fitted.next_token(ids[:-1])
    assert np.log(prefix[END]) == pytest.approx(one_by_one[-1], abs=1e-5)


def test_texts_beside_each_other_change_nothing(fitted):
    frames = fitted.frame(["b", "a b c a b c a b", "", "c a"])
    together = fitted.log_probabilities(frames)
    assert [len(row) for row in together] == [len(ids) - 1 for ids in frames]
    for ids, row in zip(frames, together, strict=True):
        np.testing.assert_allclose(row, fitted.log_probabilities([ids])[0], atol=1e-5)


def test_unseen_and_unknown_text_is_finite(fitted):
    assert math.isfinite(fitted.perplexity(["c c c c ? 你 b b b b"]))
    assert fitted.generate("? 你", max_new_tokens=3).startswith("[UNK] [UNK]")


@pytest.mark.parametrize("method", ["fit", "score", "perplexity", "bits_per_byte"])
def test_wrong_texts(fitted, method):
    method = getattr(fitted, method)
    with pytest.raises(TypeError, match="put it in a list"):
        method("a b c")
    with pytest.raises(TypeError, match=re.escape("texts[1] is 7, not a string")):
        method(["a", 7])
    for nothing in ([], iter([]), Corpus("nothing", partial(iter, []))):
        with pytest.raises(ValueError, match="There are no texts"):
            method(nothing)


def test_empty_strings_have_a_perplexity_and_no_bits_per_byte(fitted):
    assert fitted.perplexity([""]) > 1
    with pytest.raises(ValueError, match="no byte"):
        fitted.bits_per_byte(["", ""])


def test_wrong_wishes_for_generation(fitted):
    with pytest.raises(TypeError, match=r"one string, not \['a'\]"):
        fitted.generate(["a"])
    with pytest.raises(ValueError, match="max_new_tokens must be at least 0, not -1"):
        fitted.generate("a", max_new_tokens=-1)
    for temperature in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature must be 0 or a positive number"):
            fitted.generate("a", temperature=temperature)

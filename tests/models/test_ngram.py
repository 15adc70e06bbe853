import math
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.lm import Lidstone, Vocabulary
from nltk.lm.models import KneserNeyInterpolated
from nltk.lm.smoothing import KneserNey

from keras_llm import corpora
from keras_llm.models import NGramLM
from keras_llm.tokenizers import WordPieceTokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = WordPieceTokenizer([*SPECIALS, "a", "b", "c", "d"])
ORDERS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def sentences():
    """Real sentences to count, and others to judge."""
    speech = next(corpora.load("state_of_the_union").texts())
    found = corpora.sentences(speech, "en")
    return found[:30], found[30:36]


@pytest.fixture(scope="module")
def tokenizer(sentences):
    return WordPieceTokenizer.train(sentences[0] + sentences[1], 300)


# === An independent implementation: nltk ===


def windows(ids, order):
    """The tokens of a framed text after its start, each with the `order - 1` tokens before it."""
    padded = [int(ids[0])] * (order - 1) + [int(i) for i in ids[1:]]
    return [tuple(padded[i : i + order]) for i in range(len(ids) - 1)]


def words(window):
    """nltk takes strings only."""
    return tuple(map(str, window))


def fit_nltk(model, frames):
    """Counts what ends at each predicted token: the n-gram, the (n-1)-gram ... and the token."""
    grams = [
        [words(window[i:]) for window in windows(ids, model.order) for i in range(model.order)]
        for ids in frames
    ]
    model.fit(grams)


class UniformBelow(KneserNey):
    """nltk's Kneser-Ney gives a new token nothing: its unigrams are not interpolated."""

    def unigram_score(self, word):
        if self._order == 1:
            count, total = self.counts[1][word], self.counts[1].N()
        else:
            count, total = self._continuation_counts(word)
        seen = sum(number > 0 for number in self.counts[1].values())
        freed = self.discount * seen / total
        return max(count - self.discount, 0) / total + freed / len(self.vocab.counts)


def vocabulary(tokenizer):
    return Vocabulary(map(str, range(tokenizer.vocabulary_size())), unk_cutoff=1)


def probabilities(model, texts):
    """Pairs each window of the texts with the model's probability of its last token."""
    frames = model.frame(texts)
    for ids, log_p in zip(frames, model.log_probabilities(frames), strict=True):
        yield from zip(windows(ids, model.order), np.exp(log_p), strict=True)


@pytest.mark.parametrize("order", ORDERS)
def test_kneser_ney_equals_nltk(tokenizer, sentences, order):
    model = NGramLM(tokenizer, order, discount=0.6).fit(sentences[0])
    reference = KneserNeyInterpolated(order, discount=0.6, vocabulary=vocabulary(tokenizer))
    reference.estimator = UniformBelow(reference.vocab, reference.counts, order=order, discount=0.6)
    fit_nltk(reference, model.frame(sentences[0]))
    for window, p in probabilities(model, [*sentences[1], sentences[0][0]]):
        *context, token = words(window)
        assert p == pytest.approx(reference.score(token, tuple(context)), rel=1e-9)


@pytest.mark.parametrize("order", ORDERS)
def test_add_k_equals_nltk(tokenizer, sentences, order):
    model = NGramLM(tokenizer, order, "add_k", k=0.3).fit(sentences[0])
    reference = Lidstone(0.3, order, vocabulary=vocabulary(tokenizer))
    fit_nltk(reference, model.frame(sentences[0]))
    size = tokenizer.vocabulary_size()
    assert len(reference.vocab) == size + 1  # nltk adds a token of its own for unknown ones
    for window, p in probabilities(model, [*sentences[1], sentences[0][0]]):
        *context, token = words(window)
        seen = reference.context_counts(tuple(context)).N()
        theirs = reference.score(token, tuple(context))
        assert p * (seen + 0.3 * size) == pytest.approx(theirs * (seen + 0.3 * (size + 1)))


# === Brute force: the formulas with dictionaries ===


def kneser_ney(frames, order, vocabulary_size):
    """Returns p(token, context) by the formula, with an estimated discount for each order."""
    counts = {order: Counter(w for ids in frames for w in windows(ids, order))}
    for n in range(order - 1, 0, -1):
        counts[n] = Counter(longer[1:] for longer in counts[n + 1])
    discount = {}
    for n, table in counts.items():
        once, twice = (sum(c == times for c in table.values()) for times in (1, 2))
        discount[n] = once / (once + 2 * twice) if once else 0.75

    def p(token, context):
        n = len(context) + 1
        lower = p(token, context[1:]) if context else 1 / vocabulary_size
        after = {gram[-1]: c for gram, c in counts[n].items() if gram[:-1] == context}
        if not after:
            return lower
        own = max(after.get(token, 0) - discount[n], 0)
        return (own + discount[n] * len(after) * lower) / sum(after.values())

    return p


texts = st.lists(st.text("abcd ", max_size=12), min_size=1, max_size=4)


@given(texts, texts, st.integers(1, 5))
@settings(max_examples=40)
def test_kneser_ney_equals_brute_force(learned, judged, order):
    learned, judged = ([" ".join(text) for text in part] for part in (learned, judged))
    model = NGramLM(LETTERS, order).fit(learned)
    p = kneser_ney(model.frame(learned), order, 9)
    for (*context, token), found in probabilities(model, judged):
        assert found == pytest.approx(p(token, tuple(context)), rel=1e-9)


def test_counts_of_a_text_counted_by_hand():
    # Bigrams of a b a b c: [CLS] a, a b (twice), b a, b c, c [SEP].
    model = NGramLM(LETTERS, 2, discount=0.5).fit(["a b a b c"])
    a, b, c, end = 5, 6, 7, 3
    # a follows [CLS] and b; b follows a; c follows b; the end follows c: 5 kinds of bigrams.
    single = {
        token: (n - 0.5) / 5 + 0.5 * 4 / 5 / 9 for token, n in {a: 2, b: 1, c: 1, end: 1}.items()
    }
    after_b, _ = model.next_token([2, a, b])
    assert after_b[a] == pytest.approx((1 - 0.5) / 2 + 0.5 * 2 / 2 * single[a])
    assert after_b[b] == pytest.approx(0.5 * 2 / 2 * single[b])
    after_a, _ = model.next_token([2, a])
    assert after_a[b] == pytest.approx((2 - 0.5) / 2 + 0.5 * 1 / 2 * single[b])
    after_d, _ = model.next_token([2, 8])  # never seen: what follows anything
    assert after_d[c] == pytest.approx(single[c])


def test_a_word_that_follows_one_word_only_is_a_poor_guess_elsewhere():
    texts = ["a b", "a b", "a b", "c d", "a d", "b d"]
    model = NGramLM(LETTERS, 2, discount=0.5).fit(texts)
    p, _ = model.next_token([2, 1])  # after [UNK], a context never seen
    assert p[6] < p[8]  # b is as frequent as d but for once, and follows a only


def test_discounts_are_estimated_for_each_order():
    model = NGramLM(LETTERS, 2).fit(["a b a b c d d"])
    # Bigrams: a b is counted twice, and 6 once. Single tokens: a and d follow two, b, c, end one.
    np.testing.assert_allclose(model.discounts, [3 / (3 + 2 * 2), 6 / (6 + 2 * 1)])


def test_no_context_reaches_into_another_text():
    apart, glued = (NGramLM(LETTERS, 3, discount=0.5).fit(t) for t in (["a b", "c d"], ["a b c d"]))
    assert glued.next_token([2, 5, 6])[0][7] > 0.5 > apart.next_token([2, 5, 6])[0][7]
    assert apart.next_token([2])[0][7] == apart.next_token([2])[0][5] > 0.2


# === Properties ===


@given(
    texts,
    st.lists(st.integers(0, 8), max_size=6),
    st.integers(1, 5),
    st.sampled_from(
        [("kneser_ney", None), ("kneser_ney", 1.0), ("kneser_ney", 1e-3), ("add_k", None)]
    ),
)
@settings(max_examples=60)
def test_probabilities_sum_to_one_after_any_context(learned, context, order, smoothing):
    model = NGramLM(LETTERS, order, smoothing[0], discount=smoothing[1])
    model.fit([" ".join(text) for text in learned])
    p, state = model.next_token([2, *context])
    assert p.sum() == pytest.approx(1, abs=1e-9)
    assert p.min() > 0
    assert len(state) == order - 1


def test_order_one_sees_no_context():
    model = NGramLM(LETTERS, 1).fit(["a b a", "c"])
    np.testing.assert_array_equal(model.next_token([2, 5])[0], model.next_token([7, 8, 6])[0])


def test_every_order_lowers_the_perplexity_of_real_text(sentences, tokenizer):
    speeches = list(corpora.load("state_of_the_union").texts())[:8]
    ppl = [NGramLM(tokenizer, n).fit(speeches[:7]).perplexity(speeches[7:]) for n in ORDERS]
    assert ppl[0] > 1.5 * ppl[1] and ppl[1] > ppl[2]
    laplace = NGramLM(tokenizer, 3, "add_k", k=1.0).fit(speeches[:7]).perplexity(speeches[7:])
    assert laplace > 1.5 * ppl[2]


def test_pickle_keeps_model_and_tokenizer():
    model = NGramLM(LETTERS, 3).fit(["a b c", "b c d"])
    copy = pickle.loads(pickle.dumps(model))
    assert copy.perplexity(["a b d"]) == model.perplexity(["a b d"])
    assert copy.generate("a", 5) == model.generate("a", 5)


def test_fitting_again_forgets():
    model = NGramLM(LETTERS, 2).fit(["a a a"]).fit(["b c"])
    assert model.perplexity(["b c"]) == NGramLM(LETTERS, 2).fit(["b c"]).perplexity(["b c"])


# === Errors ===


@pytest.mark.parametrize("order", [0, -1, 1.5, None])
def test_wrong_order(order):
    with pytest.raises(ValueError, match=f"order must be a positive integer, not {order}"):
        NGramLM(LETTERS, order)


def test_wrong_smoothing():
    with pytest.raises(ValueError, match=r"one of .*kneser_ney.*add_k.* not 'laplace'"):
        NGramLM(LETTERS, smoothing="laplace")
    for k in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="k must be a positive number"):
            NGramLM(LETTERS, smoothing="add_k", k=k)
    for discount in (0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="discount must be more than 0"):
            NGramLM(LETTERS, discount=discount)


@pytest.mark.parametrize("smoothing", ["kneser_ney", "add_k"])
def test_not_fitted(smoothing):
    model = NGramLM(LETTERS, smoothing=smoothing)
    for act in (lambda: model.perplexity(["a"]), lambda: model.generate("a")):
        with pytest.raises(ValueError, match=r"counted nothing yet: call `fit\(texts\)`"):
            act()

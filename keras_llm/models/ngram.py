"""N-gram models: the next token by counting which tokens followed the last few.

Notable:
- any order, with add-k smoothing or interpolated Kneser-Ney ("An Empirical Study of Smoothing
  Techniques for Language Modeling", Chen and Goodman, 1998, sections 2 and 3);
- no n-gram is a Python object: contexts have numbers, an n-gram is the number of its context and
  its last token in one integer, and counting is `np.unique` over all of them;
- no token of the vocabulary is ever impossible: below the counts stands the uniform distribution.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from keras_llm.models.language_model import LanguageModel, blocks_of_texts

SMOOTHINGS = ("kneser_ney", "add_k")
# Where too little text leaves nothing to estimate a discount from: what Church and Gale (1991)
# found in a large one.
USUAL_DISCOUNT = 0.75


class NGramCounts(NamedTuple):
    """The n-grams of one order, sorted by number; V is the size of the vocabulary.

    Args:
        contexts: int (contexts,): number of the context without its first token * V + that token.
        ngrams: int (n-grams,): number of the context, its place in `contexts`, * V + last token.
        counts: int (n-grams,).
    """

    contexts: np.ndarray
    ngrams: np.ndarray
    counts: np.ndarray


class NGramLM(LanguageModel):
    r"""Predicts a token from the `order - 1` tokens before it, by smoothed counts.

    With c(h, w) the count of token w after context h, add-k smoothing (Lidstone, 1920) is

    $$ p(w \mid h) = \frac{c(h, w) + k}{c(h) + k V}. $$

    Interpolated Kneser-Ney (Kneser and Ney, 1995; Chen and Goodman, 1998, section 3) takes a
    discount D from every count and gives what that frees to the context h' that is shorter by one
    token, down to the uniform distribution 1 / V below the single tokens:

    $$ p(w \mid h) = \frac{\max(c(h, w) - D, 0)}{c(h)} + \frac{D \, t(h)}{c(h)} \, p(w \mid h') $$

    with t(h) the number of different tokens seen after h, and c(h) the sum of c(h, w) over w. At
    the longest contexts c counts occurrences; at all shorter ones it counts the different tokens
    that stood before h w: "Francisco" may be frequent, but it follows one word only and is a poor
    guess elsewhere. Each order has its own $D = n_1 / (n_1 + 2 n_2)$, where $n_1$ and $n_2$ are how
    many n-grams have counts 1 and 2.

    The model can be pickled, with its tokenizer.

    Args:
        tokenizer: what turns text into ids, such as `keras_llm.tokenizers.WordPieceTokenizer`.
        order: int, the n of the n-grams: 1 sees no context, 3 the last two tokens.
        smoothing: "kneser_ney" or "add_k".
        k: float, what "add_k" adds to each count. 1 is Laplace's rule, too much for most contexts.
        discount: float in (0, 1], the D of "kneser_ney" for all orders; None estimates each.

    Raises:
        ValueError: `order` is not a positive integer, or another smoothing, k or discount.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> texts = ["the cat sat on the mat", "the cat sat down", "the dog sat on the cat"]
        >>> model = NGramLM(WordPieceTokenizer.train(texts, 32), order=3).fit(texts)
        >>> model.generate("the dog", max_new_tokens=4, temperature=0)
        'the dog sat on the cat'
        >>> model.perplexity(["the dog sat down"]) < 5 < model.perplexity(["down mat the on"])
        True
    """

    def __init__(self, tokenizer, order=3, smoothing="kneser_ney", k=0.01, discount=None):
        if not isinstance(order, int) or order < 1:
            raise ValueError(f"order must be a positive integer, not {order!r}.")
        if smoothing not in SMOOTHINGS:
            raise ValueError(f"smoothing must be one of {SMOOTHINGS}, not {smoothing!r}.")
        if not 0 < k < math.inf:
            raise ValueError(f"k must be a positive number, or unseen tokens get none; got {k!r}.")
        if discount is not None and not 0 < discount <= 1:
            raise ValueError(
                f"discount must be more than 0, or unseen tokens get nothing, and at most 1, or "
                f"counts become negative; got {discount!r}."
            )
        self.tokenizer = tokenizer
        self.order = order
        self.smoothing = smoothing
        self.k = k
        self.discount = discount
        self.orders = None  # one `NGramCounts` an order, the single tokens first

    def fit(self, texts):
        """Counts the n-grams of texts; what was counted before is forgotten.

        Args:
            texts: list or other iterable of str, or a `keras_llm.corpora.Corpus`; read once.

        Returns:
            The model.

        Raises:
            ValueError: there are no texts.
            TypeError: a single string, or something else than strings.
        """
        frames = (ids for block in blocks_of_texts(texts) for ids in self.frame(block))
        windows = np.concatenate([self._windows(ids) for ids in frames])  # (tokens, order)
        self.vocabulary_size = self.tokenizer.vocabulary_size()
        self.orders = _count(windows, self.vocabulary_size)
        if self.smoothing == "kneser_ney":
            self.orders = _count_continuations(self.orders, self.vocabulary_size)
            self.discounts = [self.discount or _discount(n.counts) for n in self.orders]
        # Of each context: the sum of its counts, and how many different tokens follow.
        contexts = [n.ngrams // self.vocabulary_size for n in self.orders]
        self.totals = [
            np.bincount(of, weights=n.counts) for of, n in zip(contexts, self.orders, strict=True)
        ]
        self.types = [np.bincount(of) for of in contexts]
        return self

    def log_probabilities(self, sequences):
        """Finds how probable each token of framed texts is after those before it.

        Args:
            sequences: list of int arrays (tokens,), as `frame` makes them.

        Returns:
            List of float arrays (tokens - 1,): natural logarithms; of all but the start token.

        Raises:
            ValueError: the model has not been fitted.
        """
        windows = [self._windows(ids) for ids in sequences]
        return [np.log(self._probabilities(w[:, :-1], w[:, -1])) for w in windows]

    def next_token(self, ids, state=None):
        """Reads tokens and says what may come next.

        Args:
            ids: list of int or int array (tokens,), at least one; a text begins with the start
                token.
            state: the `order - 1` tokens before `ids`, which an earlier call returned; None: from
                the beginning of a text.

        Returns:
            The pair of the probabilities, float (vocabulary,), and the last `order - 1` tokens.

        Raises:
            ValueError: the model has not been fitted.
        """
        state = self._padding() if state is None else state
        state = np.concatenate([state, ids]).astype("int64")[len(ids) :]  # (order - 1,)
        every_token = np.arange(self.tokenizer.vocabulary_size())
        return self._probabilities(state, every_token), state

    def _padding(self):
        """The context of a text's first token: start tokens, as many as a context is long."""
        return np.full(self.order - 1, self.tokenizer.start_token_id)

    def _windows(self, ids):
        """Lays an n-gram before each predicted token of a framed text: (tokens - 1, order)."""
        padded = np.concatenate([self._padding(), ids[1:]])
        return np.lib.stride_tricks.sliding_window_view(padded, self.order)

    def _probabilities(self, contexts, tokens):
        """Returns p(token | context): (..., order - 1) and (...) -> (...)."""
        if self.orders is None:
            raise ValueError("This model has counted nothing yet: call `fit(texts)` first.")
        smoothed = self._kneser_ney if self.smoothing == "kneser_ney" else self._add_k
        return smoothed(self._numbers(contexts), tokens)

    def _numbers(self, contexts):
        """Numbers contexts of 0, 1, ... tokens: (..., order - 1) -> order arrays (...), -1 unseen.

        A context grows to the left, so a longer one has been seen only where the shorter has.
        """
        numbers = [np.zeros(contexts.shape[:-1], "int64")]
        for length in range(1, self.order):
            longer = _join(numbers[-1], contexts[..., -length], self.vocabulary_size)
            numbers.append(_find(self.orders[length].contexts, longer))
        return numbers

    def _kneser_ney(self, contexts, tokens):
        p = np.full(tokens.shape, 1 / self.vocabulary_size)
        for n, context in enumerate(contexts):
            count, total, types = self._counted(n, context, tokens)
            discount = self.discounts[n]
            interpolated = np.maximum(count - discount, 0) + discount * types * p
            # What has never been a context leaves the word to the shorter one.
            p = np.where(total > 0, interpolated / np.maximum(total, 1), p)
        return p

    def _add_k(self, contexts, tokens):
        count, total, _ = self._counted(self.order - 1, contexts[-1], tokens)
        return (count + self.k) / (total + self.k * self.vocabulary_size)

    def _counted(self, n, context, tokens):
        """Looks up c(h, w), c(h) and t(h) of the n-grams with n tokens of context."""
        table = self.orders[n]
        ngram = _find(table.ngrams, _join(context, tokens, self.vocabulary_size))
        count = np.where(ngram >= 0, table.counts[ngram], 0)
        total = np.where(context >= 0, self.totals[n][context], 0)
        types = np.where(context >= 0, self.types[n][context], 0)
        return count, total, types


def _count(windows, vocabulary_size):
    """Counts the n-grams that end each window: (tokens, order) -> `NGramCounts` by order."""
    orders = []
    contexts, context = np.zeros(1, "int64"), np.zeros(len(windows), "int64")
    for length in range(windows.shape[1]):
        if length:
            longer = _join(context, windows[:, -1 - length], vocabulary_size)
            contexts, context = np.unique(longer, return_inverse=True)
        ngrams = _join(context, windows[:, -1], vocabulary_size)
        orders.append(NGramCounts(contexts, *np.unique(ngrams, return_counts=True)))
    return orders


def _count_continuations(orders, vocabulary_size):
    """Counts in all orders but the highest how many different tokens an n-gram follows."""
    counted = []
    for lower, higher in pairwise(orders):
        context, token = np.divmod(higher.ngrams, vocabulary_size)
        shorter = higher.contexts[context] // vocabulary_size
        # Each longer n-gram stands for one token before the shorter; sorted, these are `lower`'s.
        _, counts = np.unique(_join(shorter, token, vocabulary_size), return_counts=True)
        counted.append(lower._replace(counts=counts))
    return [*counted, orders[-1]]


def _discount(counts):
    """Estimates D from how many n-grams were counted once and twice (Ney, Essen, Kneser, 1994)."""
    once, twice = (counts == 1).sum(), (counts == 2).sum()
    return once / (once + 2 * twice) if once else USUAL_DISCOUNT


def _join(number, token, vocabulary_size):
    """Packs the number of a context and a token into one; -1 where the context is unseen."""
    return np.where(number >= 0, number * vocabulary_size + token, -1)


def _find(ordered, numbers):
    """Returns the place of each number in a sorted array, -1 where it is not there."""
    place = np.searchsorted(ordered, numbers)
    place = np.minimum(place, len(ordered) - 1)
    return np.where(ordered[place] == numbers, place, -1)

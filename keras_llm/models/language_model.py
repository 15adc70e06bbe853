"""What a language model is, whatever it computes with: n-grams, recurrence or attention.

Notable:
- a model supplies two things, the probabilities of the next token and those of the tokens of whole
  texts; perplexity, bits per byte and generation are written once, on top of them;
- every text is framed alike: a start token, which is given, the text's tokens, and an end token,
  which is predicted as they are. At the same tokenizer all models are asked the same questions;
- what a model remembers of a text is its state: n - 1 tokens, or the vectors of a network.
"""

import abc
import math
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

TEXTS_AT_ONCE = 256


class TextScore(NamedTuple):
    """How probable a model finds some texts.

    Args:
        log_likelihood: float, the sum of `log p(token | tokens before it)`, natural logarithm.
        tokens: int, how many tokens were predicted, the end tokens included.
        bytes: int, the length of the texts in UTF-8.

    Example:
        >>> score = TextScore(log_likelihood=-8 * math.log(4), tokens=8, bytes=32)
        >>> round(score.perplexity, 3), round(score.bits_per_byte, 3)
        (4.0, 0.5)
    """

    log_likelihood: float
    tokens: int
    bytes: int

    @property
    def perplexity(self):
        """Among how many equally probable tokens the model hesitates, on average."""
        return math.exp(-self.log_likelihood / self.tokens)

    @property
    def bits_per_byte(self):
        """The bits that a code built on the model would spend on a byte of text."""
        if not self.bytes:
            raise ValueError("The texts are empty strings: there is no byte to share bits among.")
        return -self.log_likelihood / math.log(2) / self.bytes


class LanguageModel(abc.ABC):
    """The interface of the models that predict each token of a text from those before it.

    A subclass has an attribute `tokenizer` and defines `fit`, `log_probabilities` and `next_token`.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> class Uniform(LanguageModel):
        ...     def __init__(self, tokenizer):
        ...         self.tokenizer = tokenizer
        ...
        ...     def fit(self, texts):
        ...         return self
        ...
        ...     def log_probabilities(self, sequences):
        ...         size = self.tokenizer.vocabulary_size()
        ...         return [np.full(len(ids) - 1, -np.log(size)) for ids in sequences]
        ...
        ...     def next_token(self, ids, state=None):
        ...         size = self.tokenizer.vocabulary_size()
        ...         return np.full(size, 1 / size), None
        >>> model = Uniform(WordPieceTokenizer.train(["to be or not to be"], 16))
        >>> round(model.perplexity(["to be", "not to be"]), 6)
        16.0
    """

    # === What each model supplies ===

    @abc.abstractmethod
    def fit(self, texts):
        """Learns from texts.

        Args:
            texts: list or other iterable of str, or a `keras_llm.corpora.Corpus`.

        Returns:
            The model itself, or of a network the `keras.callbacks.History` of its training.

        Raises:
            ValueError: there are no texts.
            TypeError: a single string, or something else than strings.
        """

    @abc.abstractmethod
    def log_probabilities(self, sequences):
        """Finds how probable each token of framed texts is after those before it.

        Args:
            sequences: list of int arrays (tokens,), as `frame` makes them.

        Returns:
            List of float arrays (tokens - 1,): natural logarithms; of all but the start token.
        """

    @abc.abstractmethod
    def next_token(self, ids, state=None):
        """Reads tokens and says what may come next.

        Args:
            ids: list of int or int array (tokens,), at least one; a text begins with the start
                token.
            state: what an earlier call returned: the tokens are read on from there. None: from the
                beginning of a text.

        Returns:
            The pair of the probabilities, float (vocabulary,), and the state after reading.
        """

    # === What follows from it ===

    def frame(self, texts):
        """Turns texts into what is predicted: start token, tokens, end token.

        Args:
            texts: list of str.

        Returns:
            List of int arrays (tokens,).
        """
        start, end = self.tokenizer.start_token_id, self.tokenizer.end_token_id
        return [np.array([start, *ids, end]) for ids in self.tokenizer.encode_batch(list(texts))]

    def score(self, texts):
        """Measures texts once, for both `perplexity` and `bits_per_byte`.

        Args:
            texts: as in `fit`.

        Returns:
            `TextScore`, with attributes `perplexity` and `bits_per_byte`.

        Raises:
            ValueError: there are no texts, or the model has not been fitted.
            TypeError: a single string, or something else than strings.
        """
        log_likelihood, tokens, size = 0.0, 0, 0
        for block in blocks_of_texts(texts):
            for log_p in self.log_probabilities(self.frame(block)):
                log_likelihood += float(log_p.sum(dtype="float64"))
                tokens += len(log_p)
            size += sum(len(text.encode("utf-8", "surrogatepass")) for text in block)
        return TextScore(log_likelihood, tokens, size)

    def perplexity(self, texts):
        r"""Measures how much the model is surprised by a token of the texts.

        $$ \exp\Big(-\frac{1}{N} \sum_{i=1}^{N} \log p(x_i \mid x_0 \dots x_{i-1})\Big) $$

        over all N tokens of all texts, end tokens included. It compares models with the same
        tokenizer only: with larger tokens there are fewer, and each is harder to guess.

        Args:
            texts: as in `fit`.

        Returns:
            Float, at least 1; the size of the vocabulary where all tokens are equally probable.

        Raises:
            ValueError: there are no texts, or the model has not been fitted.
            TypeError: a single string, or something else than strings.
        """
        return self.score(texts).perplexity

    def bits_per_byte(self, texts):
        """Measures the same surprise in bits, shared among the bytes of the texts as given.

        So models with different tokenizers compare, as far as their tokenizers keep the text. What
        a tokenizer drops, its model need not predict: `WordPieceTokenizer` drops the spacing, with
        `lowercase=True` capitals and accents too, and all characters that it does not know become
        one token, `[UNK]`. Between it and a tokenizer of bytes, the bits are a lower bound of what
        the whole text would cost; compare tokenizers that drop the same.

        Args:
            texts: as in `fit`.

        Returns:
            Float, bits a byte of the texts' UTF-8.

        Raises:
            ValueError: there are no texts, or only empty ones; the model has not been fitted.
            TypeError: a single string, or something else than strings.
        """
        return self.score(texts).bits_per_byte

    def generate(self, prompt="", max_new_tokens=50, temperature=1.0, seed=0):
        """Goes on with a text, token by token, until the end token or the limit.

        Tokens that stand for no text, `[UNK]` among them, are never chosen.

        Args:
            prompt: str, the beginning of the text; may be empty.
            max_new_tokens: int, the most tokens to add.
            temperature: float. 1 draws from the model's probabilities, less prefers the probable
                tokens, and 0 always takes the most probable.
            seed: int, another seed draws another text.

        Returns:
            Str: prompt and continuation, as the tokenizer writes them.

        Raises:
            ValueError: `temperature` is negative or not finite, `max_new_tokens` is negative, or
                the model has not been fitted.
            TypeError: the prompt is not a string.
        """
        if not isinstance(prompt, str):
            raise TypeError(f"The prompt must be one string, not {prompt!r}.")
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens must be at least 0, not {max_new_tokens}.")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be 0 or a positive number, not {temperature}.")
        rng = np.random.default_rng(seed)
        written = self.frame([prompt])[0][:-1].tolist()
        unread, state = written, None
        for _ in range(max_new_tokens):
            probabilities, state = self.next_token(unread, state)
            token = self._choose(probabilities, temperature, rng)
            if token == self.tokenizer.end_token_id:
                break
            unread = [token]
            written = written + unread
        return self.tokenizer.decode(written)

    def _choose(self, probabilities, temperature, rng):
        """Draws a token that stands for text, or the end."""
        no_text = set(self.tokenizer.special_token_ids) - {self.tokenizer.end_token_id}
        weights = probabilities.astype("float64")
        weights[list(no_text)] = 0.0
        if temperature == 0:
            return int(weights.argmax())
        weights = (weights / weights.max()) ** (1 / temperature)
        return int(rng.choice(len(weights), p=weights / weights.sum()))


def blocks_of_texts(texts):
    """Streams texts in lists of at most `TEXTS_AT_ONCE`, each text checked.

    Args:
        texts: list or other iterable of str, or a `keras_llm.corpora.Corpus`.

    Returns:
        Iterator of lists of str.

    Raises:
        ValueError: there are no texts.
        TypeError: a single string, or something else than strings.

    Example:
        >>> list(blocks_of_texts(["to be", "or not"]))
        [['to be', 'or not']]
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError(
            f"Expected a list of texts, got the string {texts[:40]!r}: put it in a list."
        )
    texts = enumerate(texts.texts() if hasattr(texts, "texts") else texts)
    first = next(texts, None)
    if first is None:
        raise ValueError("There are no texts. Check the list, path or split that they come from.")
    texts = map(_checked, chain([first], texts))
    return iter(lambda: list(islice(texts, TEXTS_AT_ONCE)), [])


def _checked(numbered):
    number, text = numbered
    if not isinstance(text, str):
        raise TypeError(f"texts[{number}] is {text!r}, not a string.")
    return text

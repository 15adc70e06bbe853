"""Span corruption: take spans out of a text, and ask for them (Raffel et al. 2020, section 3.1.4).

Notable: of a number of tokens, always the same number are taken out, in the same number of spans;
chance only says where. Rows of one length therefore give inputs of one length and targets of one
length, and no token is padding. What is taken out of a row is a function of (seed, epoch, row).
"""

from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from keras_llm import corpora
from keras_llm.objectives import streams


class SpanCorruption:
    """Replaces spans of a text by sentinels, and asks for what stood there.

    Of n tokens `rate` are taken out, in spans that are `mean_span` tokens long on average. The
    lengths of the spans, and of what is left between them, are each drawn uniformly from all ways
    to cut their total into that many parts. A text begins with tokens that stay and ends with a
    span, as in the code of T5 (`random_spans_noise_mask`).

    Args:
        tokenizer: one with `sentinel_ids` and `end_token_id`.
        rate: float, the share of tokens to take out.
        mean_span: float, tokens a span on average.
        seed: int.

    Raises:
        ValueError: `rate` is not between 0 and 1, or `mean_span` is less than 1.

    Example:
        >>> from types import SimpleNamespace
        >>> tokenizer = SimpleNamespace(sentinel_ids=[99, 98, 97], end_token_id=1)
        >>> corrupt = SpanCorruption(tokenizer, rate=0.4, mean_span=2)
        >>> inputs, targets = corrupt(range(10, 20), example=0)
        >>> inputs.tolist(), targets.tolist()
        ([10, 11, 12, 13, 14, 99, 17, 98, 1], [99, 15, 16, 98, 18, 19, 1])
    """

    def __init__(self, tokenizer, rate: float = 0.15, mean_span: float = 3.0, seed: int = 0):
        if not 0 < rate < 1:
            raise ValueError(
                f"rate={rate} must lie between 0 and 1: the share of tokens to take out."
            )
        if mean_span < 1:
            raise ValueError(f"mean_span={mean_span} must be at least 1: a span has a token.")
        self.rate = rate
        self.mean_span = mean_span
        self.seed = seed
        self.sentinels = np.array(tokenizer.sentinel_ids, "int32")
        self.end = tokenizer.end_token_id

    def __call__(
        self, token_ids: Sequence[int], example: int, epoch: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Corrupts one text.

        Args:
            token_ids: ids `(tokens,)`, two at least.
            example: int, a number that names the text.
            epoch: int.

        Returns:
            The pair of inputs and targets, int32, of the `lengths` of so many tokens: the text with
            a sentinel for each span, and each sentinel with its span; both end with the end token.

        Raises:
            ValueError: there are more spans than sentinels.
        """
        token_ids = np.asarray(token_ids, "int32")
        rng = np.random.default_rng([self.seed, epoch, example])
        is_noise = self.noise_mask(len(token_ids), rng)
        return self._sentinels_for(token_ids, is_noise), self._sentinels_for(token_ids, ~is_noise)

    def counts(self, tokens: int) -> tuple[int, int]:
        """Says how many of so many tokens are taken out, and in how many spans."""
        noise = min(max(round(tokens * self.rate), 1), tokens - 1)
        spans = max(round(noise / self.mean_span), 1)
        return noise, min(spans, tokens - noise)  # between two spans a token stays

    def lengths(self, tokens: int) -> tuple[int, int]:
        """Says how long the inputs and the targets of so many tokens are, with their end tokens."""
        noise, spans = self.counts(tokens)
        return tokens - noise + spans + 1, noise + spans + 1

    def tokens_for(self, sequence_length: int) -> int:
        """Says how many tokens give inputs of `sequence_length`, or as little less as possible."""
        tokens = 2
        while self.lengths(tokens + 1)[0] <= sequence_length:
            tokens += 1
        return tokens

    def noise_mask(self, tokens: int, rng: np.random.Generator) -> np.ndarray:
        """Draws which of so many tokens are taken out: bool `(tokens,)`."""
        noise, spans = self.counts(tokens)
        kept_lengths = _composition(tokens - noise, spans, rng)
        span_lengths = _composition(noise, spans, rng)
        lengths = np.stack([kept_lengths, span_lengths], axis=1).ravel()  # kept, span, kept, ...
        return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)

    def _sentinels_for(self, token_ids: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """Puts a sentinel for each run of hidden tokens, and the end token behind: int32."""
        first = hidden & ~np.concatenate([[False], hidden[:-1]])
        number = np.cumsum(first) - 1  # of the run, at each of its tokens
        if number[-1] >= len(self.sentinels):
            raise ValueError(
                f"{len(token_ids)} tokens have {number[-1] + 1} spans, and the tokenizer only "
                f"{len(self.sentinels)} sentinels. Use shorter rows, a lower rate or longer spans, "
                "or a tokenizer with more sentinels."
            )
        marked = np.where(first, self.sentinels[number], token_ids)
        return np.append(marked[first | ~hidden], np.int32(self.end))


def span_corruption_examples(
    source: Iterable[corpora.Document | str],
    tokenizer,
    batch_size: int,
    sequence_length: int = 512,
    rate: float = 0.15,
    mean_span: float = 3.0,
    dynamic: bool = True,
    seed: int = 0,
    epochs: int | None = None,
    training: bool = True,
) -> tf.data.Dataset:
    """Makes the examples that T5 is pretrained on (Raffel et al. 2020, sections 3.1.4 and 3.3.4).

    Documents, each with an end token, are laid end to end and cut into rows of such a length that
    the encoder reads `sequence_length` tokens: 568 for 512, of which the decoder is asked for 114.

    For training, rows are shuffled anew in every epoch, and an epoch's last rows share a batch with
    the next epoch's first. Otherwise there is one pass in order, with spans that never change, and
    the last batch may be smaller.

    Args:
        source: a `keras_llm.corpora.Corpus`, or an iterable of documents or strings that can be
            read again from the start.
        tokenizer: one with `encode_batch`, `sentinel_ids`, `end_token_id`, `pad_token_id`, and
            `start_token_id` where it has one.
        batch_size: int, rows a batch, over all replicas and hosts.
        sequence_length: int, tokens that the encoder reads. Only the last row of an epoch is
            padded.
        rate: float, the share of tokens to take out.
        mean_span: float, tokens a span on average.
        dynamic: bool. Other spans in every epoch.
        seed: int.
        epochs: int, passes through the data; endless by default.
        training: bool. False for validation and test.

    Returns:
        A dataset of `(x, y, sample_weight)`:

        - x, a dict: `encoder_token_ids` int32 and `encoder_padding_mask` bool `(batch,
          sequence_length)`, `decoder_token_ids` int32 and `decoder_padding_mask` bool `(batch,
          target)`, the target after a start token;
        - y: int32 `(batch, target)`, the target;
        - sample_weight: float32 `(batch, target)`, 0 at padding.

    Raises:
        TypeError: the source can be read only once.
        ValueError: the source has no text, `rate` or `mean_span` is out of range, or the tokenizer
            has too few sentinels.

    Example:
        >>> from keras_llm.tokenizers import UnigramTokenizer
        >>> texts = ["the cat sat on the mat"] * 9
        >>> tokenizer = UnigramTokenizer.train(texts, 15, num_sentinels=2)
        >>> dataset = span_corruption_examples(texts, tokenizer, 1, 12, training=False)
        >>> x, y, _ = next(iter(dataset))
        >>> print(*map(tokenizer.id_to_token, x["encoder_token_ids"].numpy()[0]))
        ▁ t h e ▁ c a t ▁ s <extra_id_0> </s>
        >>> print(*map(tokenizer.id_to_token, y.numpy()[0]))
        <extra_id_0> a t </s>
    """
    corrupt = SpanCorruption(tokenizer, rate, mean_span, seed)
    streams.check(source, tokenizer, sequence_length, least=3)
    tokens = corrupt.tokens_for(sequence_length)
    _, target_length = corrupt.lengths(tokens)
    corrupt(np.zeros(tokens, "int32"), example=0)  # raises where sentinels are too few

    def examples(epoch):
        rows = streams.cut(streams.ended(source, tokenizer), tokens)
        for number, row in enumerate(rows):
            if len(row) > 1:  # of a single last token nothing could stay
                pair = corrupt(row, number, epoch if dynamic else 0)
                yield streams.encoder_decoder(*pair, tokenizer, sequence_length, target_length)

    signature = streams.encoder_decoder_signature(sequence_length, target_length)
    return streams.stream(examples, signature, batch_size, tokens, seed, epochs, training)


def _composition(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Cuts a total into so many parts of 1 at least, each way as likely: int `(parts,)`."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)

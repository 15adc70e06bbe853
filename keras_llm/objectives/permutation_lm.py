"""Permutation language modelling: ask for tokens in a random order (Yang et al. 2019, section 2).

Notable: nothing is hidden in the text, as `[MASK]` does. Who may attend to whom says what is known
when a token is asked for: all tokens that are not predicted, and those predicted before it. That
mask, like all chance here, is a function of (seed, epoch, example).
"""

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from keras_llm import corpora
from keras_llm.objectives import streams
from keras_llm.objectives.masked_lm import asked
from keras_llm.objectives.randomness import uniform


class PermutationLM:
    """Chooses spans of tokens to predict, and an order in which to predict their tokens.

    As in "XLNet" (Yang et al. 2019, sections 2.3 and 3.1), `rate` of the tokens are predicted, the
    last ones in the order of factorization, in spans: a length L of 1 to `max_span` is drawn, and
    of the next L / `rate` tokens L that stand side by side, until there are no more tokens. What is
    left over at the end gives as many as its share. Special tokens are never predicted; spans pass
    over them.

    The tokens that are not predicted see each other, whatever their order: it would change no
    prediction. Those that are predicted see them too, and those that come before them in a random
    order in which each is as likely.

    Args:
        tokenizer: one with `vocabulary_size` and `special_token_ids`.
        rate: float, the share of tokens to predict, 1 / K in the paper.
        max_span: int, tokens of a span at most.
        dynamic: bool. Other tokens and orders in every epoch, not the same ones.
        seed: int.

    Raises:
        ValueError: `rate` is not above 0 and at most 1, or `max_span` is less than 1.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        >>> permute = PermutationLM(WordPieceTokenizer([*specials, *"abcdef"]), rate=0.5)
        >>> permuted = permute(tf.constant([[5, 6, 7, 8, 3, 2]]), examples=tf.constant([1]))
        >>> for name in ("mask_positions", "labels", "weights"):
        ...     print(name, permuted[name].numpy())
        mask_positions [[0 1 0]]
        labels [[5 6 0]]
        weights [[1. 1. 0.]]
        >>> print(permuted["attention_mask"].numpy()[0].astype(int))  # first 6, then 5 is predicted
        [[0 1 1 1 1 1]
         [0 0 1 1 1 1]
         [0 0 1 1 1 1]
         [0 0 1 1 1 1]
         [0 0 1 1 1 1]
         [0 0 1 1 1 1]]
    """

    def __init__(
        self,
        tokenizer,
        rate: float = 1 / 6,
        max_span: int = 5,
        dynamic: bool = True,
        seed: int = 0,
    ):
        if not 0 < rate <= 1:
            raise ValueError(
                f"rate={rate} must be above 0 and at most 1: the share of tokens to predict."
            )
        if max_span < 1:
            raise ValueError(f"max_span={max_span} must be at least 1: a span has a token.")
        self.rate = rate
        self.max_span = max_span
        self.dynamic = dynamic
        self.seed = seed
        special = set(tokenizer.special_token_ids)
        self.is_special = [id in special for id in range(tokenizer.vocabulary_size())]

    def __call__(
        self, token_ids: tf.Tensor, examples: tf.Tensor, epochs: tf.Tensor | int = 0
    ) -> dict[str, tf.Tensor]:
        """Chooses the predictions of a batch.

        Args:
            token_ids: int32 `(batch, length)`; padding is a special token.
            examples: int `(batch,)`, a number that names each example.
            epochs: int, one for all or one an example `(batch,)`.

        Returns:
            A dict of
            `attention_mask`: bool `(batch, length, length)`, True where position i may attend to j;
            a token that is not predicted may attend to itself, one that is may not;
            `mask_positions`: int32 `(batch, predictions)`, ascending, 0 where a slot is unused;
            `labels`: int32 `(batch, predictions)`, the tokens that stand there, 0 where unused;
            `weights`: float32 `(batch, predictions)`, 1 where used, 0 where unused.
        """
        length = token_ids.shape[1]
        keys = [self.seed, epochs if self.dynamic else 0, examples]
        chosen = self._choose(token_ids, keys)
        order = tf.argsort(tf.argsort(uniform(keys, 2, length)))  # (batch, length)
        is_before = order[:, None, :] < order[:, :, None]
        sees_predicted = chosen[:, :, None] & is_before  # (batch, length, length)
        return {
            "attention_mask": ~chosen[:, None, :] | sees_predicted,
            **asked(token_ids, chosen, slots=max(1, round(self.rate * length))),
        }

    def _choose(self, token_ids, keys):
        """Says which tokens to predict: (batch, length) bool."""
        length = token_ids.shape[1]
        ordinary = ~tf.gather(tf.constant(self.is_special), token_ids)
        number = tf.cumsum(tf.cast(ordinary, tf.int32), axis=1) - 1  # of each ordinary token
        total = number[:, -1:] + 1  # (batch, 1)

        # The contexts, each with a span to predict: where they end, where they begin.
        spans = 1 + tf.floor(uniform(keys, 0, length) * self.max_span)
        sizes = tf.cast(tf.round(spans / self.rate), tf.int32)
        ends = tf.minimum(tf.cumsum(sizes, axis=1), total)  # (batch, contexts)
        starts = tf.pad(ends[:, :-1], [[0, 0], [1, 0]])

        # How many are predicted up to a context's end: their share, of the whole text one at least.
        share = tf.cast(tf.round(tf.cast(ends, tf.float64) * self.rate), tf.int32)
        share = tf.where(ends == total, tf.maximum(share, tf.minimum(total, 1)), share)
        before = tf.pad(share[:, :-1], [[0, 0], [1, 0]])
        spans = share - before
        room = ends - starts - spans + 1
        first = starts + tf.cast(uniform(keys, 1, length) * tf.cast(room, tf.float32), tf.int32)

        context = tf.searchsorted(ends, number, side="right")  # (batch, length), of each token
        context = tf.minimum(context, length - 1)
        first = tf.gather(first, context, batch_dims=1)
        spans = tf.gather(spans, context, batch_dims=1)
        return ordinary & (first <= number) & (number < first + spans)


def permutation_lm_examples(
    source: Iterable[corpora.Document | str],
    tokenizer,
    batch_size: int,
    sequence_length: int = 512,
    rate: float = 1 / 6,
    max_span: int = 5,
    dynamic: bool = True,
    seed: int = 0,
    epochs: int | None = None,
    training: bool = True,
) -> tf.data.Dataset:
    """Makes the examples that `XLNetForPretraining` is fitted on.

    Documents are laid end to end with `[SEP]` between them and cut into rows; `[SEP] [CLS]` stand
    at the end of each, as in all input of XLNet. Each part of a row up to a separator is a segment,
    and `[CLS]` one of its own. Attention crosses documents: the segments tell them apart.

    For training, rows are shuffled anew in every epoch, and an epoch's last rows share a batch with
    the next epoch's first. Otherwise there is one pass in order, with orders of factorization that
    never change, and the last batch may be smaller.

    Args:
        source: a `keras_llm.corpora.Corpus`, or an iterable of documents or strings that can be
            read again from the start.
        tokenizer: one with `encode_batch`, `sep_token_id`, `cls_token_id`, `pad_token_id`, and what
            `PermutationLM` asks of it.
        batch_size: int, rows a batch, over all replicas and hosts.
        sequence_length: int, tokens a row. Only the last row of an epoch is padded.
        rate: float, as in `PermutationLM`.
        max_span: int, as in `PermutationLM`.
        dynamic: bool. Other predictions in every epoch.
        seed: int.
        epochs: int, passes through the data; endless by default.
        training: bool. False for validation and test.

    Returns:
        A dataset of `(x, y, sample_weight)`:

        - x, a dict: `token_ids`, `segment_ids` int32 and `padding_mask` bool `(batch,
          sequence_length)`, `attention_mask` bool `(batch, sequence_length, sequence_length)`,
          `mask_positions` int32 `(batch, predictions)`;
        - y: int32 `(batch, predictions)`, the tokens to predict;
        - sample_weight: float32 `(batch, predictions)`, 0 where a slot is unused.

    Raises:
        TypeError: the source can be read only once.
        ValueError: the source has no text, or an argument is out of range.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        >>> tokenizer = WordPieceTokenizer([*specials, *"abcde"])
        >>> dataset = permutation_lm_examples(["a b c", "d e"], tokenizer, 1, 9, training=False)
        >>> x, y, sample_weight = next(iter(dataset))
        >>> for values in (x["token_ids"], x["segment_ids"], x["mask_positions"], y):
        ...     print(values.numpy()[0])
        [5 6 7 3 8 9 3 2 0]
        [0 0 0 0 1 1 1 2 2]
        [0 0]
        [5 0]
    """
    permute = PermutationLM(tokenizer, rate, max_span, dynamic, seed)
    streams.check(source, tokenizer, sequence_length, least=3)
    sep, cls = tokenizer.sep_token_id, tokenizer.cls_token_id

    def examples(epoch):
        documents = streams.ended(source, tokenizer, separator=sep)
        for number, row in enumerate(streams.cut(documents, sequence_length - 2)):
            row = np.append(row, [sep, cls])
            padded = streams.pad(row, sequence_length, tokenizer.pad_token_id)
            yield padded, len(row), number, epoch

    def to_batch(token_ids, lengths, numbers, epochs):
        permuted = permute(token_ids, numbers, epochs)
        x = {
            "token_ids": token_ids,
            "segment_ids": tf.cumsum(tf.cast(token_ids == sep, tf.int32), axis=1, exclusive=True),
            "padding_mask": tf.sequence_mask(lengths, sequence_length),
            "attention_mask": permuted["attention_mask"],
            "mask_positions": permuted["mask_positions"],
        }
        return x, permuted["labels"], permuted["weights"]

    signature = (tf.TensorSpec((sequence_length,), tf.int32), *[tf.TensorSpec((), tf.int64)] * 3)
    return streams.stream(
        examples, signature, batch_size, sequence_length, seed, epochs, training, to_batch
    )

"""Causal language modelling: ask for each token after those before it (Radford et al. 2019).

Notable: documents are laid end to end and cut into full rows, so that no token is padding; the
number of its document stands beside each token, so that attention can stay within documents. Every
token of the corpus is read once and asked for once in an epoch.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from keras_llm import corpora
from keras_llm.objectives import streams


def causal_lm_examples(
    source: Iterable[corpora.Document | str],
    tokenizer,
    batch_size: int,
    sequence_length: int = 1024,
    across_documents: bool = False,
    seed: int = 0,
    epochs: int | None = None,
    training: bool = True,
) -> tf.data.Dataset:
    """Makes the examples that a causal language model is fitted on, without a wasted token.

    A document of tokens d1 to dn is read as `[start] d1 ... dn` and asked for as `d1 ... dn [end]`.
    These pairs are laid end to end, document after document, and cut into rows. Where start and end
    are the same token, as in GPT-2, a row is a piece of `[end] document [end] document [end]`, but
    the first token of a document is asked of `[end]` alone.

    For training, rows are shuffled anew in every epoch, and an epoch's last rows share a batch with
    the next epoch's first. Otherwise there is one pass in order, and the last batch may be smaller.

    Args:
        source: a `keras_llm.corpora.Corpus`, or an iterable of documents or strings that can be
            read again from the start.
        tokenizer: one with `encode_batch`, `start_token_id`, `end_token_id` and `pad_token_id`.
        batch_size: int, rows a batch, over all replicas and hosts.
        sequence_length: int, tokens a row. Only the last row of an epoch is padded.
        across_documents: bool. Let attention see the documents before, as GPT-2 was trained:
            `segment_ids` is left out.
        seed: int, of the order.
        epochs: int, passes through the data; endless by default.
        training: bool. False for validation and test.

    Returns:
        A dataset of `(x, y, sample_weight)`:

        - x, a dict: `token_ids` int32, `padding_mask` bool and `segment_ids` int32 `(batch,
          sequence_length)`, the number of the token's document within its row;
        - y: int32 `(batch, sequence_length)`, the tokens that come next;
        - sample_weight: float32 `(batch, sequence_length)`, 0 at padding.

    Raises:
        TypeError: the source can be read only once.
        ValueError: the source has no text, or a length is less than 1.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        >>> tokenizer = WordPieceTokenizer([*specials, *"abcde"])
        >>> dataset = causal_lm_examples(["a b c", "d e"], tokenizer, 1, 5, training=False)
        >>> for x, y, _ in dataset:
        ...     for values in (x["token_ids"], x["segment_ids"], y):
        ...         print(values.numpy()[0])
        [2 5 6 7 2]
        [0 0 0 0 1]
        [5 6 7 3 8]
        [8 9 0 0 0]
        [0 0 1 1 1]
        [9 3 0 0 0]
    """
    streams.check(source, tokenizer, sequence_length)

    def examples(epoch):
        return _rows(source, tokenizer, sequence_length)

    integers = tf.TensorSpec((sequence_length,), tf.int32)
    signature = (
        {
            "token_ids": integers,
            "padding_mask": tf.TensorSpec((sequence_length,), tf.bool),
            "segment_ids": integers,
        },
        integers,
        tf.TensorSpec((sequence_length,), tf.float32),
    )

    def without_segments(x, y, weights):
        return {name: x[name] for name in ("token_ids", "padding_mask")}, y, weights

    return streams.stream(
        examples,
        signature,
        batch_size,
        sequence_length,
        seed,
        epochs,
        training,
        to_batch=without_segments if across_documents else None,
    )


def _rows(source, tokenizer, length: int) -> Iterator[tuple[dict, np.ndarray, np.ndarray]]:
    for stream in streams.cut(_framed(source, tokenizer), length + 1, overlap=1):
        tokens, begins = stream[:, :-1]
        following, ends = stream[:, 1:]
        # A document ends where the next begins; it is not asked for the other's first token.
        targets = np.where(ends, tokenizer.end_token_id, following)
        segments = np.cumsum(begins) - begins[0]
        real = np.arange(length) < len(tokens)
        x = {
            "token_ids": streams.pad(tokens, length, tokenizer.pad_token_id),
            "padding_mask": real,
            "segment_ids": streams.pad(segments, length, segments[-1] + 1),
        }
        yield x, streams.pad(targets, length), real.astype("float32")


def _framed(source, tokenizer) -> Iterator[np.ndarray]:
    """Streams int32 `(2, tokens)`: each document after a start token, and 1 at start tokens."""
    for ids, begins in streams.encoded(source, tokenizer):
        framed = np.zeros((2, len(ids) + begins), "int32")
        framed[0, begins:] = ids
        if begins:
            framed[:, 0] = tokenizer.start_token_id, 1
        yield framed
    yield np.array([[tokenizer.start_token_id], [1]], "int32")  # where the last document ends

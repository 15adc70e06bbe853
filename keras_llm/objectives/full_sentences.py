"""Batches for RoBERTa pretraining: full sentences with masks (Liu et al. 2019, sections 4.1, 4.2).

Notable: no sentence pairs and nothing to say about them. A row is filled with whole sentences, also
of the next document, and masked anew in every epoch.
"""

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from keras_llm import corpora
from keras_llm.objectives import streams
from keras_llm.objectives.masked_lm import MaskedLM


def masked_lm_examples(
    source: Iterable[corpora.Document | str],
    tokenizer,
    batch_size: int,
    sequence_length: int = 512,
    rate: float = 0.15,
    max_predictions: int | None = None,
    whole_word: bool = False,
    max_ngram: int = 1,
    dynamic: bool = True,
    seed: int = 0,
    epochs: int | None = None,
    training: bool = True,
) -> tf.data.Dataset:
    """Makes the examples that a masked language model is fitted on, without next sentences.

    Rows are packed as in FULL-SENTENCES (Liu et al. 2019, section 4.2): `[start] sentences [end]`,
    as many whole sentences as there is room for, with one more end token between documents.

    For training, rows are shuffled anew in every epoch, and an epoch's last rows share a batch with
    the next epoch's first. Otherwise there is one pass in order, with masks that never change, and
    the last batch may be smaller.

    Args:
        source: a `keras_llm.corpora.Corpus`, or an iterable of documents or strings that can be
            read again from the start.
        tokenizer: one with `encode_batch`, `start_token_id`, `end_token_id`, `pad_token_id`, and
            what `MaskedLM` asks of it.
        batch_size: int, rows a batch, over all replicas and hosts.
        sequence_length: int, tokens a row, to which rows are padded.
        rate: float, share of tokens to predict.
        max_predictions: int, as in `MaskedLM`.
        whole_word: bool, as in `MaskedLM`.
        max_ngram: int, as in `MaskedLM`.
        dynamic: bool. New masks in every epoch.
        seed: int.
        epochs: int, passes through the data; endless by default.
        training: bool. False for validation and test.

    Returns:
        A dataset of `(x, y, sample_weight)`:

        - x, a dict: `token_ids` int32 and `padding_mask` bool `(batch, sequence_length)`,
          `mask_positions` int32 `(batch, predictions)`;
        - y: int32 `(batch, predictions)`, the tokens that were hidden;
        - sample_weight: float32 `(batch, predictions)`, 0 where a slot is unused.

    Raises:
        TypeError: the source can be read only once.
        ValueError: the source has no text, or an argument is out of range.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        >>> tokenizer = WordPieceTokenizer([*specials, "a", "cat", "sat", "rain", "fell", "."])
        >>> texts = ["A cat sat. A cat fell.", "Rain fell."]
        >>> x, y, _ = next(iter(masked_lm_examples(texts, tokenizer, 1, 16, training=False)))
        >>> x["token_ids"].numpy()[0], y.numpy()[0]
        (array([ 2,  5,  4,  7,  4,  5,  6,  9, 10,  3,  8,  9, 10,  3,  0,  0], dtype=int32),
         array([ 6, 10], dtype=int32))
    """
    mask = MaskedLM(tokenizer, rate, max_predictions, whole_word, max_ngram, dynamic, seed)
    streams.check(source, tokenizer, sequence_length, least=3)
    start, end, padding = tokenizer.start_token_id, tokenizer.end_token_id, tokenizer.pad_token_id

    def examples(epoch):
        rows = streams.full_sentences(source, tokenizer, sequence_length - 2, separator=end)
        for number, sentences in enumerate(rows):
            row = np.concatenate([[start], *sentences, [end]])
            yield streams.pad(row, sequence_length, padding), len(row), number, epoch

    def to_batch(token_ids, lengths, numbers, epochs):
        masked = mask(token_ids, numbers, epochs)
        x = {
            "token_ids": masked["token_ids"],
            "padding_mask": tf.sequence_mask(lengths, sequence_length),
            "mask_positions": masked["mask_positions"],
        }
        return x, masked["labels"], masked["weights"]

    signature = (tf.TensorSpec((sequence_length,), tf.int32), *[tf.TensorSpec((), tf.int64)] * 3)
    return streams.stream(
        examples, signature, batch_size, sequence_length, seed, epochs, training, to_batch
    )

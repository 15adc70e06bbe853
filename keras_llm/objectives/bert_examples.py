"""Batches for BERT pretraining: sentence pairs with masks, from shards or straight from a corpus.

Notable: the order of the data is a pure function of (seed, epoch, position), and the mask of an
example one of (seed, epoch, its tokens). `dataset.skip(n)` therefore goes on exactly where n
batches were taken, on one machine or many. `Dataset.shuffle` cannot give that: its order depends on
the global seed.
"""

from collections.abc import Iterable
from pathlib import Path

import tensorflow as tf

from keras_llm import corpora
from keras_llm.objectives.masked_lm import MaskedLM
from keras_llm.objectives.next_sentence import check_source, sentence_pairs
from keras_llm.objectives.randomness import fold, shuffle
from keras_llm.objectives.shards import (
    parse_pairs,
    read_manifest,
    serialize_pair,
    serialized_pairs,
    vocabulary_hash,
)
from keras_llm.objectives.streams import in_batches

# Pairs shuffled among themselves, about 40 MB: wide enough to mix a corpus that stands in order of
# time, as the speeches do.
SHUFFLE_WINDOW = 131_072


def bert_examples(
    source: str | Path | Iterable[corpora.Document],
    tokenizer,
    batch_size: int,
    sequence_length: int = 128,
    rate: float = 0.15,
    max_predictions: int | None = None,
    whole_word: bool = False,
    max_ngram: int = 1,
    dynamic: bool = True,
    seed: int = 0,
    epochs: int | None = None,
    training: bool = True,
) -> tf.data.Dataset:
    """Makes the examples that `BertForPretraining` is fitted on.

    For training, pairs are shuffled anew in every epoch and batches all have the same shape; an
    epoch's last pairs share a batch with the next epoch's first. Otherwise there is one pass in
    order, with masks that never change, and the last batch may be smaller.

    Args:
        source: folder of shards that `write_pairs` made, or a corpus, whose pairs are then made
            while training, other ones in every epoch if `dynamic`.
        tokenizer: the `WordPieceTokenizer` of the shards.
        batch_size: int, examples a batch, over all replicas and hosts.
        sequence_length: int, to which examples are padded.
        rate: float, share of tokens to predict.
        max_predictions: int, as in `MaskedLM`.
        whole_word: bool, as in `MaskedLM`.
        max_ngram: int, as in `MaskedLM`.
        dynamic: bool. New masks in every epoch.
        seed: int.
        epochs: int, passes through the data; endless by default.
        training: bool. False for validation and test.

    Returns:
        A dataset of `(x, y, sample_weight)`, each a dict:

        - x: `token_ids`, `segment_ids` int32 and `padding_mask` bool `(batch, sequence_length)`,
          `mask_positions` int32 `(batch, predictions)`;
        - y: `masked_lm` int32 `(batch, predictions)`, `next_sentence` int32 `(batch,)`, 1 where
          the second segment follows;
        - sample_weight: `masked_lm` float32 `(batch, predictions)`, 0 where a slot is unused, and
          `next_sentence` float32 `(batch,)`.

    Raises:
        FileNotFoundError: the folder holds no complete shards.
        ValueError: the shards are of another vocabulary or of longer sequences, or there are fewer
            pairs than a batch.

    Example:
        >>> from keras_llm.corpora import Document
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> texts = ["A cat sat. It purred.", "Rain fell. It was cold."]
        >>> corpus = [Document(text, id=str(i)) for i, text in enumerate(texts)]
        >>> tokenizer = WordPieceTokenizer.train(texts * 9, 52)
        >>> dataset = bert_examples(corpus, tokenizer, batch_size=2, sequence_length=16)
        >>> x, y, sample_weight = next(iter(dataset))
        >>> x["token_ids"].shape, y["masked_lm"].shape, y["next_sentence"].shape
        (TensorShape([2, 16]), TensorShape([2, 2]), TensorShape([2]))
    """
    # Everything that may be wrong is found here, not in the middle of the pipeline.
    if isinstance(source, (str, Path)):
        _check_shards(source, tokenizer, sequence_length, batch_size if training else 1)
    else:
        check_source(source, tokenizer, sequence_length)
    mask = MaskedLM(tokenizer, rate, max_predictions, whole_word, max_ngram, dynamic, seed)

    def one_epoch(epoch):
        if isinstance(source, (str, Path)):
            pairs = serialized_pairs(source, fold(seed, epoch) if training else None)
        else:
            version = epoch if dynamic else tf.zeros_like(epoch)
            pairs = _pairs_on_the_fly(source, tokenizer, sequence_length, seed, version)
        if training:
            pairs = shuffle(pairs, SHUFFLE_WINDOW, seed, epoch)
        return tf.data.Dataset.zip(pairs, tf.data.Dataset.from_tensors(epoch).repeat())

    to_examples = _ToExamples(tokenizer, sequence_length, mask)
    num_examples = None
    if isinstance(source, (str, Path)):
        num_examples = read_manifest(source)["examples"]
    return in_batches(one_epoch, batch_size, epochs, training, to_examples, num_examples)


class _ToExamples:
    """Turns a batch of serialized pairs into padded, masked `(x, y, sample_weight)`."""

    def __init__(self, tokenizer, sequence_length: int, mask: MaskedLM):
        self.cls, self.sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.pad = tokenizer.pad_token_id
        self.sequence_length = sequence_length
        self.mask = mask

    def __call__(self, serialized: tf.Tensor, epochs: tf.Tensor) -> tuple[dict, dict, dict]:
        pairs = parse_pairs(serialized)
        x = self._pack(pairs["first"], pairs["second"])
        # An example is named by what it is, not by where it stands.
        names = tf.strings.to_hash_bucket_fast(serialized, 2**62)
        masked = self.mask(x["token_ids"], names, epochs)
        x |= {name: masked[name] for name in ("token_ids", "mask_positions")}
        y = {"masked_lm": masked["labels"], "next_sentence": pairs["follows"]}
        weights = {
            "masked_lm": masked["weights"],
            "next_sentence": tf.ones_like(pairs["follows"], tf.float32),
        }
        return x, y, weights

    def _pack(self, first: tf.RaggedTensor, second: tf.RaggedTensor) -> dict[str, tf.Tensor]:
        """Packs segments as [CLS] first [SEP] second [SEP], padded to (batch, length)."""
        batch = first.nrows()
        cls, sep = tf.fill([batch, 1], self.cls), tf.fill([batch, 1], self.sep)
        first = tf.concat([cls, first, sep], axis=1)
        second = tf.concat([second, sep], axis=1)
        token_ids = tf.concat([first, second], axis=1)
        segments = tf.concat([tf.zeros_like(first), tf.ones_like(second)], axis=1)
        return {
            "token_ids": self._pad(token_ids, self.pad),
            "segment_ids": self._pad(segments, 0),
            "padding_mask": self._pad(tf.ones_like(token_ids, tf.bool), False),
        }

    def _pad(self, rows: tf.RaggedTensor, value) -> tf.Tensor:
        return rows.to_tensor(value, shape=(None, self.sequence_length))


def _pairs_on_the_fly(corpus, tokenizer, sequence_length, seed, epoch) -> tf.data.Dataset:
    def generate(epoch):
        pairs = sentence_pairs(corpus, tokenizer, sequence_length, seed, int(epoch))
        return map(serialize_pair, pairs)

    return tf.data.Dataset.from_generator(
        generate, args=(epoch,), output_signature=tf.TensorSpec((), tf.string)
    )


def _check_shards(folder, tokenizer, sequence_length: int, least: int) -> None:
    manifest = read_manifest(folder)
    if manifest["vocabulary_sha256"] != vocabulary_hash(tokenizer):
        raise ValueError(
            f"The shards in {folder} were made with another vocabulary than this tokenizer's. Load "
            "the tokenizer that they were made with, or make new shards."
        )
    if manifest["sequence_length"] > sequence_length:
        raise ValueError(
            f"The shards in {folder} hold sequences of up to {manifest['sequence_length']} tokens, "
            f"more than sequence_length={sequence_length}. Ask for that length, or make new shards."
        )
    if manifest["examples"] < least:
        raise ValueError(
            f"The shards in {folder} hold {manifest['examples']} pairs, fewer than one batch of "
            f"{least}. Choose a smaller batch size, or more text."
        )

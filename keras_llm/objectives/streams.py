"""From a corpus to batches for `fit`: reading, packing and order, which all objectives share.

Notable: an objective is a function from an epoch to its examples in the order of the corpus, the
same whenever it is called. What stands here makes batches of them: shuffled anew in every epoch,
of one shape, shared out to replicas and hosts by example, and continued by `dataset.skip(n)`.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import numpy as np
import tensorflow as tf

from keras_llm import corpora
from keras_llm.objectives.randomness import shuffle

# Read and tokenized at once; a block ends at whichever comes first.
BLOCK_DOCUMENTS = 64
BLOCK_CHARACTERS = 500_000

# Tokens shuffled among themselves, 64 MB as int32: wide enough to mix a corpus that stands in order
# of time.
SHUFFLE_WINDOW = 2**24


# === Reading ===


def check_rereadable(corpus: Iterable) -> None:
    """Raises TypeError for what can be read only once, or is a single text."""
    if isinstance(corpus, str):
        raise TypeError(
            "The corpus is a single string, whose characters would each be taken for a text. "
            "Pass a list of texts: `[text]`."
        )
    if iter(corpus) is corpus:
        raise TypeError(
            "This corpus is an iterator, which can be read only once; examples need it several "
            "times. Pass a `keras_llm.corpora.Corpus` or a list of documents."
        )


def check(corpus: Iterable, tokenizer, sequence_length: int, least: int = 1) -> None:
    """Checks that rows can be made, before any work is done.

    Args:
        corpus: as in `encoded`.
        tokenizer: as in `encoded`.
        sequence_length: int, tokens a row.
        least: int, the shortest row that makes sense.

    Raises:
        TypeError: the corpus can be read only once.
        ValueError: the corpus has no text, or `sequence_length` is less than `least`.
    """
    check_rereadable(corpus)
    if sequence_length < least:
        raise ValueError(f"sequence_length={sequence_length} must be at least {least}.")
    if next(encoded(corpus, tokenizer), None) is None:
        name = getattr(corpus, "name", "The corpus")
        raise ValueError(f"{name} is empty: it has no document with any text.")


def language(corpus: Iterable) -> str:
    """The language of a corpus, English where it does not say."""
    return getattr(corpus, "language", None) or "en"


def document_blocks(corpus: Iterable[corpora.Document | str]) -> Iterator[list[corpora.Document]]:
    """Streams a corpus in blocks of documents, small enough to hold."""
    block, characters = [], 0
    for document in corpus:
        if isinstance(document, str):
            document = corpora.Document(document)
        block.append(document)
        characters += len(document.text)
        if len(block) == BLOCK_DOCUMENTS or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def encoded(
    corpus: Iterable[corpora.Document | str], tokenizer, by_sentence: bool = False
) -> Iterator[tuple[list[int], bool]]:
    """Streams the ids of documents, or of their sentences.

    Args:
        corpus: a `keras_llm.corpora.Corpus`, or an iterable of documents or strings.
        tokenizer: one with `encode_batch`.
        by_sentence: bool.

    Returns:
        Iterator of pairs of ids, never empty, and whether they begin a document. The further parts
        of an over-long document do not begin one.
    """
    begins = False
    for block in document_blocks(corpus):
        # Parts of a document are cut at line ends, and come without them.
        texts = [("\n" if document.part else "") + document.text for document in block]
        pieces = [[text] for text in texts]
        if by_sentence:
            pieces = [_sentences(text, language(corpus)) for text in texts]
        ids = iter(tokenizer.encode_batch(list(chain.from_iterable(pieces))))
        for document, own in zip(block, pieces, strict=True):
            begins |= document.part == 0
            for _ in own:
                if piece := next(ids):
                    yield piece, begins
                    begins = False


def _sentences(text: str, language: str) -> list[str]:
    """Splits a text into sentences that, laid end to end, give the text but for white space."""
    space = "" if language == "zh" else " "
    first, *others = corpora.sentences(text, language) or [""]
    return [first, *(space + sentence for sentence in others)]


# === Packing ===


def ended(
    source: Iterable[corpora.Document | str], tokenizer, separator: int | None = None
) -> Iterator[np.ndarray]:
    """Streams the ids of documents: int32 `(tokens,)`.

    Args:
        source: as in `encoded`.
        tokenizer: as in `encoded`.
        separator: int, an id that is put between documents, by default the end token.
    """
    separator = tokenizer.end_token_id if separator is None else separator
    for number, (ids, begins) in enumerate(encoded(source, tokenizer)):
        before = [separator] if begins and number else []
        yield np.array([*before, *ids], "int32")


def cut(pieces: Iterable[np.ndarray], length: int, overlap: int = 0) -> Iterator[np.ndarray]:
    """Lays arrays end to end and cuts them into rows of `length`; the last may be shorter.

    Args:
        pieces: arrays `(..., n)`, joined along the last axis.
        length: int.
        overlap: int, with how many of a row's last entries the next row begins.

    Returns:
        Iterator of arrays `(..., length)`, the last `(..., rest)`.

    Example:
        >>> [row.tolist() for row in cut([np.arange(3), np.arange(3, 8)], length=4, overlap=1)]
        [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7]]
    """
    held, size = [], 0
    for piece in pieces:
        held.append(piece)
        size += piece.shape[-1]
        if size >= length:
            joined = np.concatenate(held, axis=-1)
            start = 0
            while size - start >= length:
                yield joined[..., start : start + length]
                start += length - overlap
            held, size = [joined[..., start:]], size - start
    if size > overlap:
        yield np.concatenate(held, axis=-1)


def full_sentences(
    source: Iterable[corpora.Document | str], tokenizer, room: int, separator: int | None = None
) -> Iterator[list[list[int]]]:
    """Packs whole sentences into rows, as many as there is room for.

    A sentence that is longer than a row is cut into several.

    Args:
        source: as in `encoded`.
        tokenizer: as in `encoded`.
        room: int, tokens a row at most.
        separator: int, an id that is put between the documents of a row. None: each row is of one
            document.

    Returns:
        Iterator of rows, each the list of its sentences as lists of ids; a separator belongs to the
        sentence behind it.
    """
    row, size = [], 0
    for ids, begins in encoded(source, tokenizer, by_sentence=True):
        for start in range(0, len(ids), room):
            piece = ids[start : start + room]
            new = begins and start == 0
            apart = [separator] if new and separator is not None else []
            over = size + len(apart) + len(piece) > room
            if row and (over or (new and separator is None)):
                yield row
                row, size = [], 0
            if row:
                piece = apart + piece
            row.append(piece)
            size += len(piece)
    if row:
        yield row


def pad(values, length: int, value: int = 0) -> np.ndarray:
    """Pads one row at the end: int32 `(length,)`."""
    row = np.full(length, value, "int32")
    row[: len(values)] = values
    return row


def encoder_decoder(
    inputs: np.ndarray, targets: np.ndarray, tokenizer, input_length: int, target_length: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Makes one example of an encoder-decoder: `(x, y, sample_weight)`.

    Args:
        inputs: ids that the encoder reads, with an end token.
        targets: ids that the decoder is asked for, with an end token; it reads them one later,
            after a start token.
        tokenizer: one with `pad_token_id`, and `start_token_id` where it has one.
        input_length: int, to which the inputs are padded.
        target_length: int, to which the targets are padded.

    Returns:
        A dict of int32 ids and bool masks `(length,)`, int32 targets `(target_length,)` and their
        float32 weights, 0 at padding.
    """
    # T5 has no start token of its own: there the decoder begins with padding.
    start = getattr(tokenizer, "start_token_id", tokenizer.pad_token_id)
    read = [start, *targets[:-1]]
    real = np.arange(target_length) < len(targets)
    x = {
        "encoder_token_ids": pad(inputs, input_length, tokenizer.pad_token_id),
        "encoder_padding_mask": np.arange(input_length) < len(inputs),
        "decoder_token_ids": pad(read, target_length, tokenizer.pad_token_id),
        "decoder_padding_mask": real,
    }
    return x, pad(targets, target_length, tokenizer.pad_token_id), real.astype("float32")


def encoder_decoder_signature(input_length: int, target_length: int) -> tuple:
    """Says the shapes and types of an example of `encoder_decoder`."""
    x = {
        "encoder_token_ids": tf.TensorSpec((input_length,), tf.int32),
        "encoder_padding_mask": tf.TensorSpec((input_length,), tf.bool),
        "decoder_token_ids": tf.TensorSpec((target_length,), tf.int32),
        "decoder_padding_mask": tf.TensorSpec((target_length,), tf.bool),
    }
    target = tf.TensorSpec((target_length,), tf.int32)
    return x, target, tf.TensorSpec((target_length,), tf.float32)


# === Order ===


def stream(
    examples: Callable[[int], Iterator],
    signature,
    batch_size: int,
    tokens: int,
    seed: int,
    epochs: int | None,
    training: bool,
    to_batch: Callable | None = None,
) -> tf.data.Dataset:
    """Makes batches of the examples of a function of the epoch.

    Args:
        examples: from an epoch to its examples, in the order of the corpus.
        signature: of one example, as `tf.data.Dataset.from_generator` wants it.
        batch_size: int.
        tokens: int, of one example: the longer, the fewer are shuffled among themselves.
        seed: int.
        epochs: int, or None for endless ones.
        training: bool. False for one pass in order.
        to_batch: from a batch of examples to `(x, y, sample_weight)`, in a graph.
    """
    window = max(1, SHUFFLE_WINDOW // tokens)

    def one_epoch(epoch):
        dataset = tf.data.Dataset.from_generator(
            lambda epoch: examples(int(epoch)), args=(epoch,), output_signature=signature
        )
        return shuffle(dataset, window, seed, epoch) if training else dataset

    num_examples = None if training else sum(1 for _ in examples(0))
    return in_batches(one_epoch, batch_size, epochs, training, to_batch, num_examples)


def string_batches(
    columns, batch_size: int | None, epochs: int = 1, seed: int | None = None
) -> tuple[tf.data.Dataset, int]:
    """Cuts strings that are in memory into batches.

    Args:
        columns: string tensors `(texts,)` in any structure: texts, or sources and targets.
        batch_size: int, over all replicas and hosts; 32 where None, and at most all texts.
        epochs: int.
        seed: int, of the order, another in each epoch; None for one pass as they stand.

    Returns:
        The pair of the dataset and how many batches an epoch has.
    """
    count = len(tf.nest.flatten(columns)[0])
    batch_size = min(batch_size or 32, count)

    def one_epoch(epoch):
        dataset = tf.data.Dataset.from_tensor_slices(columns)
        return dataset if seed is None else shuffle(dataset, count, seed, epoch)

    dataset = in_batches(one_epoch, batch_size, epochs, seed is not None, num_examples=count)
    return dataset, max(count * epochs // batch_size // epochs, 1)


def in_batches(
    one_epoch: Callable[[tf.Tensor], tf.data.Dataset],
    batch_size: int,
    epochs: int | None,
    training: bool,
    to_batch: Callable | None = None,
    num_examples: int | None = None,
) -> tf.data.Dataset:
    """Chains epochs and cuts them into batches, which a strategy may share out.

    An epoch's last examples share a batch with the next epoch's first. Without `training` there is
    one pass, whose last batch may be smaller.

    Args:
        one_epoch: from an epoch, int64 `()`, to its dataset.
        batch_size: int, over all replicas and hosts.
        epochs: int, or None for endless ones.
        training: bool.
        to_batch: as in `stream`.
        num_examples: int, of one pass, where it is known.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    if not training:
        epochs = 1
    elif epochs is None:
        epochs = sys.maxsize
    dataset = tf.data.Dataset.range(epochs).flat_map(one_epoch)
    dataset = dataset.batch(batch_size, drop_remainder=training)
    if to_batch is not None:
        dataset = dataset.map(to_batch, tf.data.AUTOTUNE, deterministic=True)
    if not training and num_examples is not None:
        # Keras must know the number of batches: where it meets the end unprepared, it warns, and
        # counts one too many in the loss of each head.
        batches = -(-num_examples // batch_size)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches))
    options = tf.data.Options()
    # Hosts share out the examples of a batch, not files: the same batches on any number of hosts.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)

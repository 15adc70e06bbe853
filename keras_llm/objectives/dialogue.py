"""Dialogue: ask for each reply, given what was said before ("DialoGPT", Zhang et al. 2019).

Notable: turns are laid end to end, each closed by the end token, and speakers take turns; nothing
else is needed to tell them apart, and no text can be mistaken for it. The first turn of a row is
read and not asked for: a model that chats need not guess what people will ask.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from keras_llm.objectives import streams


def lay_turns(turns: Sequence[Sequence[int]], tokenizer, room: int) -> list[int]:
    """Lays turns end to end, as a model reads them; where room is short, the oldest go.

    Args:
        turns: the ids of each turn, the oldest first.
        tokenizer: one with `start_token_id` and `end_token_id`.
        room: int, tokens at most. Of a last turn that is longer alone, the end is kept.

    Returns:
        The ids, `[start] turn [end] turn [end] ...`.

    Example:
        >>> from types import SimpleNamespace
        >>> tokenizer = SimpleNamespace(start_token_id=1, end_token_id=2)
        >>> lay_turns([[10, 11], [20], [30]], tokenizer, room=9)
        [1, 10, 11, 2, 20, 2, 30, 2]
        >>> lay_turns([[10, 11], [20], [30]], tokenizer, room=7)
        [1, 20, 2, 30, 2]
    """
    ids = []
    for turn in reversed(turns):
        closed = [*turn, tokenizer.end_token_id]
        if ids and 1 + len(closed) + len(ids) > room:
            break
        ids = closed + ids
    return [tokenizer.start_token_id, *ids[max(len(ids) + 1 - room, 0) :]]


def dialogue_examples(
    dialogues: Iterable,
    tokenizer,
    batch_size: int,
    sequence_length: int = 128,
    seed: int = 0,
    epochs: int | None = None,
    training: bool = True,
) -> tf.data.Dataset:
    """Makes the examples that a causal language model learns to reply from.

    A row holds as many turns of one dialogue as there is room for; a longer dialogue goes on in
    further rows, each of which begins with the last reply of the one before. Every turn but a
    dialogue's first is asked for once.

    Args:
        dialogues: a `keras_llm.corpora.Corpus` whose documents have `turns`, such as
            `dialogues_en`, or an iterable of lists of str that can be read again.
        tokenizer: one with `encode_batch`, `start_token_id`, `end_token_id` and `pad_token_id`.
        batch_size: int, rows a batch, over all replicas and hosts.
        sequence_length: int, tokens a row. Of two turns that are too long for a row, the reply is
            cut off after half of it, and the other keeps its end.
        seed: int, of the order.
        epochs: int, passes through the data; endless by default.
        training: bool. False for one pass in order, whose last batch may be smaller.

    Returns:
        A dataset of `(x, y, sample_weight)`: the dict of `token_ids` int32 and `padding_mask` bool,
        the tokens that come next int32, and float32 weights, 1 where a reply is asked for, all
        `(batch, sequence_length)`.

    Raises:
        TypeError: the dialogues can be read only once, or one of them is not a list of str.
        ValueError: a dialogue has fewer than two turns, an empty turn, or there is none.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        >>> tokenizer = WordPieceTokenizer([*specials, "hi", "you", "fine"])
        >>> dialogues = [["hi", "hi you", "fine"]]
        >>> x, y, weights = next(iter(dialogue_examples(dialogues, tokenizer, 1, 9)))
        >>> for values in (x["token_ids"], y, weights):
        ...     print(values.numpy()[0].astype(int))
        [2 5 3 5 6 3 7 0 0]
        [5 3 5 6 3 7 3 0 0]
        [0 0 1 1 1 1 1 0 0]
    """
    streams.check_rereadable(dialogues)
    if sequence_length < 5:  # a turn and a reply of one token at least, each closed
        raise ValueError(f"sequence_length={sequence_length} must be at least 5.")
    if sum(1 for _ in _turns(dialogues)) == 0:  # reads, and checks, all of them
        raise ValueError("There are no dialogues.")

    def examples(epoch):
        for turns in _turns(dialogues):
            yield from _rows(turns, tokenizer, sequence_length)

    integers = tf.TensorSpec((sequence_length,), tf.int32)
    x = {"token_ids": integers, "padding_mask": tf.TensorSpec((sequence_length,), tf.bool)}
    signature = (x, integers, tf.TensorSpec((sequence_length,), tf.float32))
    return streams.stream(examples, signature, batch_size, sequence_length, seed, epochs, training)


def _turns(dialogues: Iterable) -> Iterator[list[str]]:
    """Streams the turns of each dialogue, checked."""
    for number, dialogue in enumerate(dialogues):
        turns = getattr(dialogue, "metadata", {}).get("turns", dialogue)
        if not (isinstance(turns, (list, tuple)) and all(isinstance(t, str) for t in turns)):
            raise TypeError(f"Dialogue {number} is {turns!r}; a dialogue is a list of str.")
        if len(turns) < 2 or not all(turn.strip() for turn in turns):
            raise ValueError(
                f"Dialogue {number} is {list(turns)}; it needs two turns or more, none of them "
                "empty."
            )
        yield list(turns)


def _rows(turns: list[str], tokenizer, length: int) -> Iterator[tuple]:
    """Cuts a dialogue into rows; the last reply of a row is what the next one begins with."""
    turns = tokenizer.encode_batch(turns)
    lengths = [len(turn) + 1 for turn in turns]  # with the end token
    start = stop = 0
    while stop < len(turns):
        stop = start + 2
        while stop < len(turns) and sum(lengths[start : stop + 1]) <= length:
            stop += 1
        first, *replies = turns[start:stop]
        if sum(lengths[start:stop]) > length:  # two turns that are too long
            replies = [replies[0][: length // 2]]
            first = first[-(length - len(replies[0]) - 2) :]
        ids = lay_turns([first, *replies], tokenizer, room=length + 1)
        row = np.array(ids, "int32")
        places = np.arange(length)
        real = places < len(row) - 1
        weights = real & (places > len(first))  # what comes next there is of a reply
        x = {
            "token_ids": streams.pad(row[:-1], length, tokenizer.pad_token_id),
            "padding_mask": real,
        }
        yield x, streams.pad(row[1:], length, tokenizer.pad_token_id), weights.astype("float32")
        start = stop - 1

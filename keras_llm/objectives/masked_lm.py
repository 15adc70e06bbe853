"""Masked language modelling: hide some tokens, and ask for them (Devlin et al. 2018, section 3.1).

Notable: every random number is a hash of (seed, epoch, example, position), so the mask of an
example depends neither on its batch nor on the order of the data; leave the epoch out and masks are
static. Plain TensorFlow ops on a whole batch, made for `tf.data.Dataset.map`.
"""

import tensorflow as tf

from keras_llm.objectives.randomness import uniform


class MaskedLM:
    """Chooses tokens to predict, and hides 8 in 10 of them.

    Of each example's tokens that are not special, `rate` are chosen, one at least. 80 % of these
    become `[MASK]`, 10 % a random token, 10 % stay as they are (Devlin et al. 2018, appendix A.1).

    Args:
        tokenizer: one with `vocabulary_size`, `special_token_ids` and `mask_token_id`, and
            `continues_word` for whole words.
        rate: float, the share of tokens to predict.
        max_predictions: int, the most to predict of one example. By default `rate` of the sequence
            length.
        whole_word: bool. Choose words and predict all of their pieces, never more than the count; a
            word that would be too many is passed over (google-research/bert, README, May 2019).
        max_ngram: int. Choose runs of 1 to so many tokens, or words, that stand side by side: n of
            them with a probability proportional to 1 / n (Lan et al. 2019, section 3.1, with 3),
            fewer where they would be too many, or meet a special token or others chosen before.
        dynamic: bool. New masks in every epoch (Liu et al. 2019, section 4.1), not the same ones.
        seed: int.

    Raises:
        ValueError: `rate` is not between 0 and 1, or `max_predictions` or `max_ngram` is less than
            1.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        >>> mask = MaskedLM(WordPieceTokenizer([*specials, *"abcdef"]), rate=0.5, max_predictions=3)
        >>> masked = mask(tf.constant([[2, 5, 6, 7, 8, 3, 0]]), examples=tf.constant([0]))
        >>> for name in ("mask_positions", "labels", "weights"):
        ...     print(name, masked[name].numpy())
        mask_positions [[2 4 0]]
        labels [[6 8 0]]
        weights [[1. 1. 0.]]
    """

    def __init__(
        self,
        tokenizer,
        rate: float = 0.15,
        max_predictions: int | None = None,
        whole_word: bool = False,
        max_ngram: int = 1,
        dynamic: bool = True,
        seed: int = 0,
    ):
        if not 0 < rate < 1:
            raise ValueError(
                f"rate={rate} must lie between 0 and 1: the share of tokens to predict."
            )
        if max_predictions is not None and max_predictions < 1:
            raise ValueError(f"max_predictions={max_predictions} must be at least 1.")
        if max_ngram < 1:
            raise ValueError(f"max_ngram={max_ngram} must be at least 1: single tokens or words.")
        self.rate = rate
        self.max_predictions = max_predictions
        self.whole_word = whole_word
        self.max_ngram = max_ngram
        self.dynamic = dynamic
        self.seed = seed
        self.mask_token_id = tokenizer.mask_token_id
        special = set(tokenizer.special_token_ids)
        self.is_special = [id in special for id in range(tokenizer.vocabulary_size())]
        self.continues_word = tokenizer.continues_word() if whole_word else None
        self.ordinary_ids = [id for id, is_special in enumerate(self.is_special) if not is_special]

    def __call__(
        self, token_ids: tf.Tensor, examples: tf.Tensor, epochs: tf.Tensor | int = 0
    ) -> dict[str, tf.Tensor]:
        """Masks a batch.

        Args:
            token_ids: int32 `(batch, length)`, padded with `[PAD]`.
            examples: int `(batch,)`, a number that names each example.
            epochs: int, one for all or one an example `(batch,)`.

        Returns:
            A dict of
            `token_ids`: int32 `(batch, length)`, some hidden;
            `mask_positions`: int32 `(batch, predictions)`, ascending, 0 where a slot is unused;
            `labels`: int32 `(batch, predictions)`, the tokens that stood there, 0 where unused;
            `weights`: float32 `(batch, predictions)`, 1 where used, 0 where unused.
        """
        length = token_ids.shape[1]
        predictions = self.max_predictions or max(1, round(self.rate * length))
        epochs = epochs if self.dynamic else 0
        keys = [self.seed, epochs, examples]
        chosen = self._choose(token_ids, keys, predictions)

        # 80 % [MASK], 10 % a random token, 10 % the token itself. (batch, length)
        ordinary = tf.constant(self.ordinary_ids, tf.int32)
        draw = tf.cast(uniform(keys, 1, length) * len(self.ordinary_ids), tf.int32)
        fate = uniform(keys, 2, length)
        substitute = tf.where(fate < 0.8, self.mask_token_id, tf.gather(ordinary, draw))
        hidden = tf.where(chosen & (fate < 0.9), substitute, token_ids)
        return {
            "token_ids": hidden,
            **asked(token_ids, chosen, predictions),
        }

    def _choose(self, token_ids, keys, predictions):
        """Says which tokens to predict: (batch, length) bool."""
        length = token_ids.shape[1]
        maskable = ~tf.gather(tf.constant(self.is_special), token_ids)
        total = tf.reduce_sum(tf.cast(maskable, tf.int32), axis=1)
        count = tf.cast(tf.round(tf.cast(total, tf.float64) * self.rate), tf.int32)
        count = tf.clip_by_value(count, 1, predictions)  # (batch,)

        # Number the words: each token is one, or all pieces up to the next beginning.
        begins = tf.ones_like(maskable)
        if self.whole_word:
            goes_on = tf.gather(tf.constant(self.continues_word), token_ids)
            after_special = tf.pad(~maskable[:, :-1], [[0, 0], [1, 0]], constant_values=True)
            begins = ~goes_on | after_special
        words = tf.cumsum(tf.cast(begins, tf.int32), axis=1) - 1  # (batch, length)
        sizes = tf.math.bincount(
            words, weights=tf.cast(maskable, tf.int32), minlength=length, axis=-1
        )  # (batch, words), 0 for special tokens

        order = tf.argsort(uniform(keys, 0, length))
        runs, tokens = self._runs(sizes, uniform(keys, 3, length))
        taken = _take(order, runs, tokens, count)
        return tf.gather(taken, words, batch_dims=1) & maskable

    def _runs(self, sizes, draw):
        """Draws for every word how many to take from there on, up to the next special token.

        Returns:
            bool (batch, words, max_ngram), True at the words of the run, and int32 of that shape,
            the number of tokens up to there.
        """
        words = draw.shape[1]
        padded = tf.pad(sizes, [[0, 0], [0, self.max_ngram - 1]])
        ahead = tf.stack([padded[:, n : n + words] for n in range(self.max_ngram)], axis=-1)
        possible = tf.math.cumprod(tf.cast(ahead > 0, tf.float32), axis=-1)
        # n is drawn as often as 1 / n: a run goes on at word n if the draw is beyond those before.
        shares = possible / tf.range(1.0, self.max_ngram + 1)
        before = tf.cumsum(shares, axis=-1, exclusive=True)
        drawn = draw[..., None] * tf.reduce_sum(shares, axis=-1, keepdims=True) >= before
        return drawn & (possible > 0), tf.cumsum(ahead, axis=-1)


def asked(token_ids: tf.Tensor, chosen: tf.Tensor, slots: int) -> dict[str, tf.Tensor]:
    """Lists the tokens to predict.

    Args:
        token_ids: int32 `(batch, length)`.
        chosen: bool `(batch, length)`, True at no more than `slots` tokens of an example.
        slots: int.

    Returns:
        A dict of `mask_positions`, `labels` and `weights` `(batch, slots)`, as `MaskedLM` has them.
    """
    length = token_ids.shape[1]
    # The positions of the chosen tokens, in order; unused slots come last.
    positions = tf.sort(tf.where(chosen, tf.range(length), length))[:, :slots]
    used = positions < length
    positions = tf.where(used, positions, 0)
    return {
        "mask_positions": positions,
        "labels": tf.where(used, tf.gather(token_ids, positions, batch_dims=1), 0),
        "weights": tf.cast(used, tf.float32),
    }


def _take(order, runs, tokens, count):
    """Takes runs of words in their order, as long as their tokens fit into the count.

    A run ends early where it would be too long or meet a word that is taken already.

    Args:
        order: int32 (batch, words), the words at which runs begin.
        runs: bool (batch, words, n), as `MaskedLM._runs` draws them.
        tokens: int32 (batch, words, n).
        count: int32 (batch,), tokens to take at most.

    Returns:
        bool (batch, words), True for words that are taken.
    """
    batch, words, n = tf.shape(order)[0], order.shape[1], runs.shape[2]
    rows = tf.tile(tf.range(batch)[:, None], [1, n])

    def step(i, left, taken):
        first = order[:, i]
        places = first[:, None] + tf.range(n)  # (batch, n)
        ends = tf.gather(tokens, first, batch_dims=1)
        run = tf.gather(runs, first, batch_dims=1) & (ends <= left[:, None])
        free = 1 - tf.gather(taken, places, batch_dims=1)
        run = tf.math.cumprod(tf.cast(run, tf.int32) * free, axis=1)
        cells = tf.stack([rows, places], axis=-1)
        left -= tf.reduce_max(run * ends, axis=1)
        return i + 1, left, tf.tensor_scatter_nd_add(taken, cells, run)

    _, _, taken = tf.while_loop(
        lambda i, left, taken: (i < words) & tf.reduce_any(left > 0),
        step,
        (0, count, tf.zeros((batch, words + n - 1), tf.int32)),
    )
    return taken[:, :words] > 0

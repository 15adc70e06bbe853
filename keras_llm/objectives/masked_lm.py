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
        tokenizer: `WordPieceTokenizer`, or another with `get_vocabulary`, `special_token_ids` and
            `mask_token_id`.
        rate: float, the share of tokens to predict.
        max_predictions: int, the most to predict of one example. By default `rate` of the sequence
            length.
        whole_word: bool. Choose words and predict all of their pieces, never more than the count; a
            word that would be too many is passed over (google-research/bert, README, May 2019).
        dynamic: bool. New masks in every epoch (Liu et al. 2019, section 4.1), not the same ones.
        seed: int.

    Raises:
        ValueError: `rate` is not between 0 and 1, or `max_predictions` is less than 1.

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
        dynamic: bool = True,
        seed: int = 0,
    ):
        if not 0 < rate < 1:
            raise ValueError(
                f"rate={rate} must lie between 0 and 1: the share of tokens to predict."
            )
        if max_predictions is not None and max_predictions < 1:
            raise ValueError(f"max_predictions={max_predictions} must be at least 1.")
        self.rate = rate
        self.max_predictions = max_predictions
        self.whole_word = whole_word
        self.dynamic = dynamic
        self.seed = seed
        self.mask_token_id = tokenizer.mask_token_id
        vocabulary = tokenizer.get_vocabulary()
        special = set(tokenizer.special_token_ids)
        self.is_special = [id in special for id in range(len(vocabulary))]
        self.is_continuation = [token.startswith("##") and len(token) > 2 for token in vocabulary]
        self.ordinary_ids = [id for id in range(len(vocabulary)) if id not in special]

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
        chosen = self._choose(token_ids, uniform(keys, 0, length), predictions)

        # The positions of the chosen tokens, in order; unused slots come last. (batch, predictions)
        columns = tf.where(chosen, tf.range(length), length)
        positions = tf.sort(columns)[:, :predictions]
        used = positions < length
        positions = tf.where(used, positions, 0)
        labels = tf.where(used, tf.gather(token_ids, positions, batch_dims=1), 0)

        # 80 % [MASK], 10 % a random token, 10 % the token itself. (batch, length)
        ordinary = tf.constant(self.ordinary_ids, tf.int32)
        draw = tf.cast(uniform(keys, 1, length) * len(self.ordinary_ids), tf.int32)
        fate = uniform(keys, 2, length)
        substitute = tf.where(fate < 0.8, self.mask_token_id, tf.gather(ordinary, draw))
        hidden = tf.where(chosen & (fate < 0.9), substitute, token_ids)
        return {
            "token_ids": hidden,
            "mask_positions": positions,
            "labels": labels,
            "weights": tf.cast(used, tf.float32),
        }

    def _choose(self, token_ids, scores, predictions):
        """Says which tokens to predict: (batch, length) bool."""
        length = token_ids.shape[1]
        maskable = ~tf.gather(tf.constant(self.is_special), token_ids)
        total = tf.reduce_sum(tf.cast(maskable, tf.int32), axis=1)
        count = tf.cast(tf.round(tf.cast(total, tf.float64) * self.rate), tf.int32)
        count = tf.clip_by_value(count, 1, predictions)  # (batch,)

        # Number the words: each token is one, or all pieces up to the next beginning.
        begins = tf.ones_like(maskable)
        if self.whole_word:
            goes_on = tf.gather(tf.constant(self.is_continuation), token_ids)
            after_special = tf.pad(~maskable[:, :-1], [[0, 0], [1, 0]], constant_values=True)
            begins = ~goes_on | after_special
        words = tf.cumsum(tf.cast(begins, tf.int32), axis=1) - 1  # (batch, length)

        # Take words in random order as long as all their pieces fit into the count.
        sizes = tf.math.bincount(
            words, weights=tf.cast(maskable, tf.int32), minlength=length, axis=-1
        )  # (batch, words), 0 for special tokens
        order = tf.argsort(scores)
        sizes = tf.gather(sizes, order, batch_dims=1)
        left = tf.scan(
            lambda left, size: left - tf.where(size <= left, size, 0), tf.transpose(sizes), count
        )  # (words, batch)
        before = tf.concat([count[None], left[:-1]], axis=0)
        taken = tf.transpose(left < before)
        taken = tf.gather(taken, tf.argsort(order), batch_dims=1)
        return tf.gather(taken, words, batch_dims=1) & maskable

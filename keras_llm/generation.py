"""Decoding: from the probabilities of the next token to a whole text.

Notable:
- a model takes part as one function, `next_logits(tokens, index, cache)`: one token of each
  sequence in, the logits of the next one and the new cache out;
- both searches are one `keras.ops.while_loop`: they run eagerly, in a graph, and inside an export,
  on every backend, and stop when nothing can change any more;
- beam search keeps unfinished and finished sequences apart, so that a short sequence that ended
  early is neither lost nor in the way;
- `without_repeats` goes around `next_logits`: what was written travels in the cache, so that beams
  take theirs along;
- the searches are for encoder-decoders, whose texts begin with a start token. Decoders that go on
  with a prompt take the samplers of `keras_hub.samplers`, and around them `RepetitionPenalty` and
  `NoRepeatNGram`, alone or one around the other.
"""

import keras
import keras_hub
from keras import ops

IMPOSSIBLE = -float("inf")  # a log-probability


def greedy_search(next_logits, cache, batch_size, start_id, end_id, max_length, pad_id=0):
    """Writes each sequence by appending the most probable token until it ends.

    The textbook's loop: begin with the start token, predict, append the most probable token, until
    that is the end token or the limit is reached.

    Args:
        next_logits: function of `tokens`, int32 (batch,), the last token of each sequence;
            `index`, int32 scalar, its position; and `cache`. Returns the logits of the next token,
            float (batch, vocabulary), and the new cache.
        cache: what `next_logits` remembers, in any structure of tensors.
        batch_size: int or int scalar tensor.
        start_id: int, the token before the first.
        end_id: int, the token after the last.
        max_length: int, the most tokens to write, the end token included.
        pad_id: int, fills up what ended before the others.

    Returns:
        int32 (batch, max_length): the tokens without the start token, with the end token.

    Raises:
        ValueError: `max_length` is less than 1.

    Example:
        >>> def count_to_three(tokens, index, cache):  # 0 begins, 3 ends
        ...     return ops.one_hot(tokens + 1, 4), cache
        >>> greedy_search(count_to_three, (), 1, 0, 3, max_length=5).numpy().tolist()
        [[1, 2, 3, 0, 0]]
    """
    _check_length(max_length)
    sequences = _begun((batch_size,), start_id, pad_id, max_length)  # (batch, 1 + max_length)
    ended = ops.zeros((batch_size,), dtype="bool")

    def unfinished(index, sequences, ended, cache):
        return ops.logical_and(index < max_length, ops.logical_not(ops.all(ended)))

    def append(index, sequences, ended, cache):
        logits, cache = next_logits(ops.take(sequences, index, axis=1), index, cache)
        tokens = ops.cast(ops.argmax(logits, axis=-1), "int32")  # (batch,)
        tokens = ops.where(ended, pad_id, tokens)
        sequences = ops.slice_update(sequences, (0, index + 1), tokens[:, None])
        return index + 1, sequences, ops.logical_or(ended, tokens == end_id), cache

    state = (ops.convert_to_tensor(0, "int32"), sequences, ended, cache)
    _, sequences, _, _ = ops.while_loop(unfinished, append, state)
    return sequences[:, 1:]


def beam_search(
    next_logits,
    cache,
    batch_size,
    start_id,
    end_id,
    max_length,
    num_beams=4,
    length_penalty=0.6,
    pad_id=0,
):
    r"""Writes each sequence by keeping the `num_beams` most probable beginnings.

    Finished sequences are ranked by their log-probability divided by

    $$ lp(Y) = \left(\frac{5 + |Y|}{6}\right)^\alpha $$

    with the end token counted in the length $|Y|$ and the `length_penalty` as $\alpha$ ("Google's
    Neural Machine Translation System", Wu et al., 2016, section 7, equation 14). Four beams and 0.6
    are those of "Attention Is All You Need" (Vaswani et al., 2017), section 6.1.

    Args:
        next_logits: as in `greedy_search`, for `batch * num_beams` sequences; the beams of one
            sequence stand together.
        cache: what `next_logits` remembers, in any structure of tensors whose first dimension is
            `batch * num_beams`; it is rearranged with the beams.
        batch_size: int or int scalar tensor.
        start_id: int, the token before the first.
        end_id: int, the token after the last.
        max_length: int, the most tokens to write, the end token included.
        num_beams: int, the beginnings to keep.
        length_penalty: float, at least 0. 0 ranks by probability, which favours short sequences;
            more favours longer ones.
        pad_id: int, fills up what ended before the others.

    Returns:
        The pair of int32 (batch, max_length), the best sequence of each without the start token
        and with the end token, and float32 (batch,), its log-probability divided by $lp(Y)$. A
        sequence that reaches `max_length` unended is returned only where none ended.

    Raises:
        ValueError: `max_length` or `num_beams` is less than 1, or `length_penalty` less than 0.

    Example:
        >>> def one_or_the_end(tokens, index, cache):  # token 1 has 0.6, the end token 2 has 0.4
        ...     logits = ops.log(ops.convert_to_tensor([1e-9, 0.6, 0.4]))
        ...     return ops.broadcast_to(logits, (*tokens.shape, 3)), cache
        >>> sequences, scores = beam_search(one_or_the_end, (), 1, 0, 2, 3, length_penalty=0.0)
        >>> sequences.numpy().tolist(), round(float(ops.exp(scores)[0]), 2)
        ([[2, 0, 0]], 0.4)
    """
    _check_length(max_length)
    if num_beams < 1 or length_penalty < 0:
        raise ValueError(
            f"num_beams={num_beams} must be at least 1 and length_penalty={length_penalty} at "
            "least 0."
        )

    def penalty(length):
        return ops.power((5.0 + ops.cast(length, "float32")) / 6.0, length_penalty)

    shape = (batch_size, num_beams)
    sequences = _begun(shape, start_id, pad_id, max_length)  # (batch, beams, 1 + max_length)
    # All beams begin alike; only the first counts, or they would stay alike.
    first = ops.arange(num_beams) == 0
    scores = ops.where(ops.broadcast_to(first, shape), 0.0, IMPOSSIBLE)  # (batch, beams)
    ended = sequences
    ended_scores = ops.full(shape, IMPOSSIBLE)

    def can_improve(index, sequences, scores, ended, ended_scores, cache):
        # Log-probabilities only fall; the longest length has the most lenient penalty.
        hope = ops.max(scores, axis=1) / penalty(max_length)
        improvable = ops.any(hope > ops.max(ended_scores, axis=1))
        return ops.logical_and(index < max_length, improvable)

    def append(index, sequences, scores, ended, ended_scores, cache):
        tokens = ops.reshape(ops.take(sequences, index, axis=2), (-1,))  # (batch * beams,)
        logits, cache = next_logits(tokens, index, cache)
        vocabulary_size = logits.shape[-1]
        steps = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
        steps = ops.reshape(steps, (batch_size, num_beams, vocabulary_size))
        totals = ops.reshape(scores[:, :, None] + steps, (batch_size, num_beams * vocabulary_size))

        # Twice as many candidates as beams: even if all beams end, as many go on.
        count = min(2 * num_beams, num_beams * vocabulary_size)
        totals, places = ops.top_k(totals, count)  # (batch, candidates)
        parents, tokens = places // vocabulary_size, places % vocabulary_size
        candidates = ops.take_along_axis(sequences, parents[:, :, None], axis=1)
        tokens = ops.cast(tokens, "int32")
        candidates = ops.slice_update(candidates, (0, 0, index + 1), tokens[:, :, None])
        ends = tokens == end_id

        # The best of what ended before and what ends now.
        ending_scores = ops.where(ends, totals / penalty(index + 1), IMPOSSIBLE)
        ended_scores, chosen = ops.top_k(
            ops.concatenate([ended_scores, ending_scores], axis=1), num_beams
        )
        ended = ops.concatenate([ended, candidates], axis=1)
        ended = ops.take_along_axis(ended, chosen[:, :, None], axis=1)

        # The best of what goes on, with its part of the cache.
        scores, chosen = ops.top_k(ops.where(ends, IMPOSSIBLE, totals), num_beams)
        sequences = ops.take_along_axis(candidates, chosen[:, :, None], axis=1)
        parents = ops.take_along_axis(parents, chosen, axis=1)  # (batch, beams)
        rows = ops.reshape(ops.arange(batch_size)[:, None] * num_beams + parents, (-1,))
        cache = keras.tree.map_structure(lambda tensor: ops.take(tensor, rows, axis=0), cache)
        return index + 1, sequences, scores, ended, ended_scores, cache

    start = ops.convert_to_tensor(0, "int32")
    state = (start, sequences, scores, ended, ended_scores, cache)
    index, sequences, scores, ended, ended_scores, _ = ops.while_loop(can_improve, append, state)

    # `top_k` sorts: the best is the first.
    has_ended = ended_scores[:, 0] > IMPOSSIBLE  # (batch,)
    best = ops.where(has_ended[:, None], ended[:, 0], sequences[:, 0])
    best_scores = ops.where(has_ended, ended_scores[:, 0], scores[:, 0] / penalty(index))
    return best[:, 1:], best_scores


def without_repeats(next_logits, cache, rows, max_length, n):
    """Keeps a search from writing the same n tokens twice.

    A token that would complete n tokens which the sequence has already is impossible, as in "A Deep
    Reinforced Model for Abstractive Summarization" (Paulus et al., 2017), section 2.5, with n of 3.

    Args:
        next_logits: as in `greedy_search` and `beam_search`.
        cache: what `next_logits` remembers.
        rows: int or int scalar tensor, number of sequences: batch, or `batch * num_beams`.
        max_length: int, as in the search.
        n: int, at least 2.

    Returns:
        The pair of `next_logits` and `cache` to search with instead.

    Raises:
        ValueError: `n` is less than 2.

    Example:
        >>> def next_logits(tokens, index, cache):  # token 1 is the most probable, then token 2
        ...     return ops.convert_to_tensor([[0.0, 3.0, 2.0, 1.0]]), cache
        >>> greedy_search(next_logits, (), 1, 0, 3, max_length=6).numpy().tolist()
        [[1, 1, 1, 1, 1, 1]]
        >>> greedy_search(*without_repeats(next_logits, (), 1, 6, n=2), 1, 0, 3, 6).numpy()
        array([[1, 1, 2, 1, 3, 0]], dtype=int32)
    """
    _check_ngram(n)
    nothing = ops.zeros((rows, max_length), dtype="int32")

    def allowed(tokens, index, cache):
        written, cache = cache
        logits, cache = next_logits(tokens, index, cache)
        written = ops.slice_update(written, (0, index), tokens[:, None])
        repeats = _would_repeat(written, index + 1, n, logits)
        return ops.where(repeats, IMPOSSIBLE, logits), (written, cache)

    return allowed, (nothing, cache)


@keras.saving.register_keras_serializable(package="keras_llm")
class RepetitionPenalty(keras_hub.samplers.Sampler):
    """Makes any sampler avoid the tokens that its text has already.

    "CTRL" (Keskar et al., 2019), section 4.1: the logits of these tokens are divided by the
    penalty, or multiplied where they are negative, so that they fall in both cases.

    Args:
        sampler: name or instance of a sampler of `keras_hub.samplers`.
        penalty: float, at least 1, which changes nothing; the paper's is 1.2.

    Raises:
        ValueError: the penalty is less than 1.

    Example:
        >>> def next_logits(prompt, cache, index):  # token 1 is the most probable, then token 2
        ...     return ops.convert_to_tensor([[0.0, 3.0, 2.0]]), None, cache
        >>> sampler, prompt = keras_hub.samplers.GreedySampler(), ops.zeros((1, 4), "int32")
        >>> sampler(next_logits, prompt, index=1).numpy().tolist()
        [[0, 1, 1, 1]]
        >>> RepetitionPenalty(sampler, 1.6)(next_logits, prompt, index=1).numpy().tolist()
        [[0, 1, 2, 1]]
    """

    def __init__(self, sampler, penalty=1.2):
        super().__init__()
        if penalty < 1:
            raise ValueError(f"penalty={penalty} must be at least 1, which changes nothing.")
        self.sampler = keras_hub.samplers.get(sampler)
        self.penalty = penalty

    @property
    def variables(self):
        """The state of the sampler's seed."""
        return self.sampler.variables

    def __call__(self, next, prompt, **kwargs):
        """Goes on with the prompts as the sampler does, from the changed logits."""

        def penalized(prompt, cache, index):
            logits, hidden_states, cache = next(prompt, cache, index)
            is_written = ops.arange(ops.shape(prompt)[1]) < index  # (length,)
            fallen = ops.where(logits > 0, logits / self.penalty, logits * self.penalty)
            logits = ops.where(_stand_at(prompt, is_written, logits), fallen, logits)
            return logits, hidden_states, cache

        return self.sampler(penalized, prompt, **kwargs)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {"sampler": keras_hub.samplers.serialize(self.sampler), "penalty": self.penalty}


@keras.saving.register_keras_serializable(package="keras_llm")
class NoRepeatNGram(keras_hub.samplers.Sampler):
    """Keeps any sampler from writing the same n tokens twice.

    A token that would complete n tokens which its text has already is impossible, as in "A Deep
    Reinforced Model for Abstractive Summarization" (Paulus et al., 2017), section 2.5, with n of 3.

    Args:
        sampler: name or instance of a sampler of `keras_hub.samplers`, or another such wrapper.
        n: int, at least 2.

    Raises:
        ValueError: `n` is less than 2.

    Example:
        >>> def next_logits(prompt, cache, index):  # token 1 is the most probable, then token 2
        ...     return ops.convert_to_tensor([[0.0, 3.0, 2.0]]), None, cache
        >>> sampler, prompt = NoRepeatNGram("greedy", 2), ops.zeros((1, 6), "int32")
        >>> sampler(next_logits, prompt, index=1).numpy().tolist()
        [[0, 1, 1, 2, 1, 0]]
    """

    def __init__(self, sampler, n=3):
        super().__init__()
        _check_ngram(n)
        self.sampler = keras_hub.samplers.get(sampler)
        self.n = n

    @property
    def variables(self):
        """The state of the sampler's seed."""
        return self.sampler.variables

    def __call__(self, next, prompt, **kwargs):
        """Goes on with the prompts as the sampler does, without the tokens that would repeat."""

        def allowed(prompt, cache, index):
            logits, hidden_states, cache = next(prompt, cache, index)
            repeats = _would_repeat(prompt, index, self.n, logits)
            return ops.where(repeats, IMPOSSIBLE, logits), hidden_states, cache

        return self.sampler(allowed, prompt, **kwargs)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {"sampler": keras_hub.samplers.serialize(self.sampler), "n": self.n}


def _would_repeat(tokens, index, n, logits):
    """Says what would complete n tokens that stand before `index` already: (batch, vocabulary)."""
    before = n - 1  # tokens that, with the next one, make n
    batch, length = ops.shape(tokens)
    if length < n:
        return ops.zeros_like(logits, dtype="bool")
    start = ops.maximum(index - before, 0)
    last = ops.slice(tokens, (0, start), (batch, before))  # (batch, n - 1)
    ends = length - before
    beginnings = ops.stack([tokens[:, i : i + ends] for i in range(before)], axis=-1)
    repeats = ops.all(beginnings == last[:, None], axis=-1)  # (batch, length - n + 1)
    repeats = ops.logical_and(repeats, ops.arange(before, length) < index)
    return _stand_at(tokens[:, before:], repeats, logits)


def _stand_at(tokens, chosen, logits):
    """Says which tokens of the vocabulary stand at chosen places: bool (batch, vocabulary).

    Tokens and places are (batch, length); places may be (length,), the same for all.
    """
    rows = ops.broadcast_to(ops.arange(ops.shape(tokens)[0])[:, None], ops.shape(tokens))
    places = ops.reshape(ops.stack([rows, tokens], axis=-1), (-1, 2))
    chosen = ops.cast(ops.broadcast_to(chosen, ops.shape(tokens)), "int32")
    return ops.scatter(places, ops.reshape(chosen, (-1,)), ops.shape(logits)) > 0


def _begun(shape, start_id, pad_id, max_length):
    """Returns sequences with their start token and place for `max_length` more."""
    starts = ops.full((*shape, 1), start_id, dtype="int32")
    return ops.concatenate([starts, ops.full((*shape, max_length), pad_id, dtype="int32")], axis=-1)


def _check_ngram(n):
    if n < 2:
        raise ValueError(f"n={n} must be at least 2, or no token could be written twice.")


def _check_length(max_length):
    if max_length < 1:
        raise ValueError(f"max_length={max_length} must be at least 1: the most tokens to write.")

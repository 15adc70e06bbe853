"""Linear-chain conditional random field (Lafferty et al., 2001): tags that fit together.

A classifier of each position alone may say "I-place" after "B-person". A CRF scores the whole
sequence of tags, by position and by pairs of neighbours, and normalises over all sequences ("Neural
Architectures for Named Entity Recognition", Lample et al., 2016, section 2.2).

Notable:
- the layer gives the potentials, one score for each position and pair of tags. They say all that
  there is to say about the chain: its likelihood, its best sequence and its marginals are plain
  functions of them, in which there are no more weights;
- padding is in the potentials too, as a step that keeps the tag and costs nothing. The recursions
  know nothing of masks, and a sequence without any position has the likelihood 1;
- summing over all sequences and finding the best are one recursion, with log-sum-exp or with the
  maximum for its sum (Viterbi); the way back asks each column of scores again instead of storing
  where it came from;
- real positions come first, padding at the right. Where only some positions have a tag, such as the
  first sub-word of each word, gather those first.
"""

import keras
from keras import ops

from keras_llm.layers.attention import HIDDEN_SCORE, as_boolean


@keras.saving.register_keras_serializable(package="keras_llm")
class CRF(keras.layers.Layer):
    r"""Scores pairs of neighbouring tags, beside the scores that a network gives each position.

    The score of the tags $y_1 \dots y_n$ is

    $$ s_{y_1} + \sum_t e_{t, y_t} + \sum_{t>1} A_{y_{t-1}, y_t} + z_{y_n} $$

    with the emissions $e$ of the network and the weights $s$ (start), $A$ (transitions) and $z$
    (end); the probability of the tags is its softmax over all sequences of tags. Lample et al.
    (2016), section 2.2.

    Args:
        num_tags: int, how many tags there are.
        allowed_transitions: bool (num_tags, num_tags), True where the tag of the column may follow
            that of the row; None: all may.
        allowed_starts: bool (num_tags,), True where a sequence may begin; None: all may.
        allowed_ends: bool (num_tags,), True where a sequence may end; None: all may.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`. The layer computes in float32
            under every precision.

    Call arguments:
        emissions: float (batch, length, num_tags), the score of each tag at each position.
        padding_mask: bool (batch, length), True at real positions, which come first; None: all are.

    Returns:
        Potentials, float32 (batch, length, num_tags, num_tags): the score of the tag of the column
        after that of the row, with everything that position adds. At the first position there is no
        tag before, and all rows are equal. For `crf_log_likelihood`, `crf_decode` and
        `crf_marginals`.

    Raises:
        ValueError: the shapes do not fit `num_tags`.
        TypeError: the mask is not boolean.

    Example:
        >>> crf = CRF(2, allowed_transitions=[[True, False], [True, True]])
        >>> potentials = crf(keras.ops.array([[[1.0, 0.0], [0.0, 3.0], [2.0, 0.0]]]))
        >>> keras.ops.convert_to_numpy(crf_decode(potentials)).tolist()  # 0, 1, 0 is not allowed
        [[1, 1, 0]]
    """

    def __init__(
        self,
        num_tags,
        allowed_transitions=None,
        allowed_starts=None,
        allowed_ends=None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)  # sums of many scores: not in half precision
        self.num_tags = num_tags
        self.allowed_transitions = _mask(allowed_transitions, (num_tags, num_tags))
        self.allowed_starts = _mask(allowed_starts, (num_tags,))
        self.allowed_ends = _mask(allowed_ends, (num_tags,))

    def build(self, emissions_shape):
        """Creates the weights: zeros, so that a network begins as a classifier of positions."""
        if emissions_shape[-1] != self.num_tags:
            raise ValueError(
                f"A CRF of {self.num_tags} tags takes emissions (batch, length, {self.num_tags}), "
                f"got the shape {tuple(emissions_shape)}."
            )

        def scores(name, *shape):
            return self.add_weight(
                name=name, shape=shape, initializer="zeros", dtype="float32", autocast=False
            )

        self.transitions = scores("transitions", self.num_tags, self.num_tags)
        self.starts = scores("starts", self.num_tags)
        self.ends = scores("ends", self.num_tags)
        self.built = True

    def call(self, emissions, padding_mask=None):
        """Returns the potentials."""
        emissions = ops.cast(emissions, "float32")
        if padding_mask is None:
            padding_mask = ops.ones_like(emissions[:, :, 0], "bool")
        real = as_boolean(padding_mask)  # (batch, length)
        last = ops.concatenate([real[:, 1:], ops.zeros_like(real[:, :1])], axis=1)
        last = ops.logical_and(real, ops.logical_not(last))

        emissions = emissions[:, :, None, :]  # (batch, length, 1, tag)
        first = ops.arange(ops.shape(real)[1])[:, None, None] == 0  # (length, 1, 1)
        potentials = emissions + ops.where(
            first,
            _permitted(self.starts, self.allowed_starts),  # the same whatever is before
            _permitted(self.transitions, self.allowed_transitions),
        )  # (batch, length, before, tag)
        ends = _permitted(self.ends, self.allowed_ends)
        potentials = potentials + ops.where(last[:, :, None, None], ends, 0.0)
        keeps_the_tag = ops.where(ops.eye(self.num_tags, dtype="bool"), 0.0, HIDDEN_SCORE)
        return ops.where(real[:, :, None, None], potentials, keeps_the_tag)

    def compute_output_shape(self, emissions_shape, padding_mask_shape=None):
        """Says the shape of the potentials."""
        return (*emissions_shape, self.num_tags)

    def get_config(self):
        """Returns the constructor's arguments."""
        allowed = ("allowed_transitions", "allowed_starts", "allowed_ends")
        masks = {name: getattr(self, name) for name in allowed}
        return {
            **super().get_config(),
            "num_tags": self.num_tags,
            **{name: None if mask is None else mask.tolist() for name, mask in masks.items()},
        }


def crf_log_likelihood(potentials, tags, padding_mask=None):
    """Finds how probable tags are, by the forward algorithm.

    Lample et al. (2016), equation 1 of section 2.2. Its gradient is exact: it goes through the
    recursion.

    Args:
        potentials: float (batch, length, num_tags, num_tags), as `CRF` gives them.
        tags: int (batch, length); any where the position is padding.
        padding_mask: bool (batch, length), the one that `CRF` was given.

    Returns:
        float32 (batch,), the natural logarithm of the probability of each sequence of tags; 0 for
        a sequence of padding alone.

    Example:
        >>> potentials = CRF(3)(keras.ops.zeros((1, 2, 3)))
        >>> log_p = crf_log_likelihood(potentials, keras.ops.array([[0, 2]]))
        >>> round(float(keras.ops.exp(log_p[0])) * 9, 4)
        1.0
    """
    tags = ops.cast(tags, "int32")
    batch, length, num_tags, _ = ops.shape(potentials)
    before = ops.concatenate([ops.zeros_like(tags[:, :1]), tags[:, :-1]], axis=1)
    pairs = ops.reshape(potentials, (batch, length, num_tags * num_tags))
    scores = ops.take_along_axis(pairs, (before * num_tags + tags)[:, :, None], axis=2)[:, :, 0]
    if padding_mask is not None:
        scores = ops.where(as_boolean(padding_mask), scores, 0.0)
    all_sequences, _ = _forward(potentials, ops.logsumexp)
    return ops.sum(scores, axis=1) - ops.logsumexp(all_sequences, axis=1)


def crf_decode(potentials):
    """Finds the most probable tags, by the Viterbi algorithm.

    Args:
        potentials: float (batch, length, num_tags, num_tags), as `CRF` gives them.

    Returns:
        int32 (batch, length); at padding the last real tag again.

    Example:
        >>> potentials = CRF(2)(keras.ops.array([[[1.0, 0.0], [0.0, 3.0], [2.0, 0.0]]]))
        >>> keras.ops.convert_to_numpy(crf_decode(potentials)).tolist()
        [[0, 1, 0]]
    """
    last, before = _forward(potentials, ops.max)
    steps = before[:, :, :, None] + ops.moveaxis(potentials, 1, 0)  # (length, batch, before, tag)

    def step_back(tag, scores):
        to_tag = ops.take_along_axis(scores, tag[:, None, None], axis=2)  # (batch, before, 1)
        return _best(to_tag[:, :, 0]), tag

    _, tags = ops.scan(step_back, _best(last), steps, reverse=True)
    return ops.moveaxis(tags, 0, 1)


def crf_marginals(potentials):
    """Finds how probable each tag is at each position, by the forward-backward algorithm.

    Args:
        potentials: float (batch, length, num_tags, num_tags), as `CRF` gives them.

    Returns:
        float32 (batch, length, num_tags), which sums to 1 over the tags; at padding that of the
        last real position again.

    Example:
        >>> marginals = crf_marginals(CRF(2)(keras.ops.zeros((1, 3, 2))))
        >>> keras.ops.convert_to_numpy(marginals).tolist()
        [[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]]
    """
    _, before = _forward(potentials, ops.logsumexp)
    steps = ops.moveaxis(potentials, 1, 0)  # (length, batch, before, tag)

    def step_back(after, pairs):
        return ops.logsumexp(pairs + after[:, None, :], axis=2), after

    _, after = ops.scan(step_back, ops.zeros_like(before[0]), steps, reverse=True)
    scores = ops.logsumexp(before[:, :, :, None] + steps, axis=2) + after  # (length, batch, tag)
    return ops.moveaxis(ops.exp(scores - ops.logsumexp(scores, axis=2, keepdims=True)), 0, 1)


def _forward(potentials, add):
    """Adds up all beginnings of sequences by their last tag.

    Returns the sums after the last position, (batch, tag), and those before each, (length, batch,
    tag). Before the first position stands one tag, the first, by convention.
    """
    first = ops.zeros_like(potentials[:, 0, 0])  # (batch, tag)
    first = first + ops.where(ops.arange(potentials.shape[-1]) == 0, 0.0, HIDDEN_SCORE)

    def step(before, pairs):
        return add(before[:, :, None] + pairs, axis=1), before

    return ops.scan(step, first, ops.moveaxis(potentials, 1, 0))


def _best(scores):
    _, places = ops.top_k(scores, 1)  # Keras' argmax has ops that devices lack
    return ops.cast(places[..., 0], "int32")


def _permitted(scores, allowed):
    scores = ops.convert_to_tensor(scores)
    return scores if allowed is None else ops.where(allowed, scores, HIDDEN_SCORE)


def _mask(allowed, shape):
    if allowed is None:
        return None
    allowed = ops.convert_to_numpy(as_boolean(allowed))
    if allowed.shape != shape:
        raise ValueError(f"What is allowed must have the shape {shape}, not {allowed.shape}.")
    return allowed

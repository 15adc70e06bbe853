import battery
import keras
import numpy as np
import numpy_reference as reference
import pytest

from keras_llm.layers import RelativeContext, RelativeMultiHeadAttention, TwoStreamBlock

HIDDEN, HEADS = 6, 2
WEIGHTS = (
    "query_dense/kernel",
    "key_dense/kernel",
    "value_dense/kernel",
    "output_dense/kernel",
    "position_dense/kernel",
    "content_bias",
    "position_bias",
    "segment_bias",
    "segment_embeddings",
)


@keras.saving.register_keras_serializable(package="tests")
class Streams(keras.layers.Layer):
    """A block with what it needs to know."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.context = RelativeContext(HIDDEN, dtype=self.dtype_policy, name="context")
        self.block = TwoStreamBlock(
            HIDDEN, HEADS, 10, dropout=0.0, dtype=self.dtype_policy, name="block"
        )

    def build(self, streams_shape):
        self.block.build(streams_shape)
        self.built = True

    def call(self, streams, padding_mask, segment_ids, attention_mask, query_positions):
        context = self.context(padding_mask, segment_ids, attention_mask, query_positions)
        return self.block(streams, context)

    def compute_output_shape(self, streams_shape):
        return streams_shape


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def normal(rng, *shape):
    return rng.normal(size=shape).astype("float32")


def examples(rng, batch=2, length=5, predictions=2, past=0):
    """What `RelativeContext` reads: padding on the left and the right, any segments and mask."""
    mask = np.arange(length) < rng.integers(1, length + 1, (batch, 1))
    mask[1::2] = mask[1::2, ::-1]
    memory = {
        "padding_mask": rng.random((batch, past)) < 0.7,
        "segment_ids": rng.integers(0, 2, (batch, past)),
    }
    return {
        "padding_mask": mask,
        "segment_ids": rng.integers(0, 2, (batch, length)),
        "attention_mask": rng.random((batch, length, length)) < 0.5,
        "query_positions": rng.integers(0, length, (batch, predictions)),
        "memory": memory if past else None,
    }


def brute_force(padding_mask, segment_ids, attention_mask, query_positions, memory):
    """Who may attend to whom, of which segments and how far away, pair by pair."""
    batch, length = padding_mask.shape
    past = memory["padding_mask"].shape[1] if memory else 0
    predictions = query_positions.shape[1]
    shape = (batch, length + predictions, past + length)
    mask, different, distance = (np.zeros(shape, kind) for kind in (bool, bool, int))
    for b, q, k in np.ndindex(shape):
        position = q if q < length else query_positions[b, q - length]
        distance[b, q, k] = past + position - k
        if k < past:
            mask[b, q, k] = memory["padding_mask"][b, k]
            different[b, q, k] = segment_ids[b, position] != memory["segment_ids"][b, k]
            continue
        key = k - past
        different[b, q, k] = segment_ids[b, position] != segment_ids[b, key]
        if key == position:
            mask[b, q, k] = q < length
        else:
            mask[b, q, k] = padding_mask[b, key] and attention_mask[b, position, key]
    return mask, different, distance


def sines(distance, features):
    """The formula of "Attention Is All You Need", section 3.5, for one distance."""
    frequencies = 10000.0 ** (-2 * np.arange(features // 2) / features)
    return np.stack([np.sin(distance * frequencies), np.cos(distance * frequencies)], 1).ravel()


# === RelativeContext ===


@pytest.mark.parametrize("past", [0, 3])
def test_context_equals_the_formula_pair_by_pair(rng, past):
    x = examples(rng, batch=4, length=6, predictions=3, past=past)
    context = battery.numpy(RelativeContext(HIDDEN)(**x))
    mask, different, distance = brute_force(**x)
    np.testing.assert_array_equal(context["attention_mask"], mask)
    np.testing.assert_array_equal(context["different_segment"], different)
    encodings = context["relative_encoding"][context["relative_index"]]
    expected = np.stack([sines(d, HIDDEN) for d in distance.ravel()]).reshape(encodings.shape)
    battery.assert_close(encodings, expected, 1e-5)


def test_context_without_mask_and_queries_hides_nothing_but_padding(rng):
    x = examples(rng)
    context = battery.numpy(RelativeContext(HIDDEN)(x["padding_mask"], x["segment_ids"]))
    everything = np.ones((2, 5, 5), bool)
    mask, different, _ = brute_force(**x | {"attention_mask": everything})
    np.testing.assert_array_equal(context["attention_mask"], mask[:, :5])
    np.testing.assert_array_equal(context["different_segment"], different[:, :5])


@pytest.mark.parametrize("name", ["padding_mask", "attention_mask"])
def test_a_mask_that_is_not_boolean_is_refused(rng, name):
    x = examples(rng)
    with pytest.raises(TypeError, match="must be boolean"):
        RelativeContext(HIDDEN)(**x | {name: x[name].astype("float32")})


# === RelativeMultiHeadAttention ===


def make_attention(rng, **kwargs):
    attention = RelativeMultiHeadAttention(HIDDEN, HEADS, name="attention", **kwargs)
    attention.build((None, None, HIDDEN))
    attention.set_weights([normal(rng, *w.shape) for w in attention.get_weights()])
    weights = {w.path.removeprefix("attention/"): np.float64(w.numpy()) for w in attention.weights}
    assert weights.keys() == set(WEIGHTS)
    return attention, [weights[name] for name in WEIGHTS]


def attention_formula(weights, query, value, mask, different, distance):
    """One sequence: the four terms of Transformer-XL and the two of XLNet, each written out."""
    wq, wk, wv, wo, wr, content, position, segment, segments = weights
    depth = HIDDEN // HEADS
    heads = []
    for h in range(HEADS):
        part = slice(h * depth, (h + 1) * depth)
        output = np.zeros((len(query), depth))
        for i, x in enumerate(query):
            q = x @ wq[:, part]
            visible = np.flatnonzero(mask[i])
            scores = []
            for j in visible:
                r = sines(distance[i, j], HIDDEN) @ wr[:, part]
                s = segments[int(different[i, j]), h]
                k = value[j] @ wk[:, part]
                score = q @ k + content[h] @ k + q @ r + position[h] @ r + (q + segment[h]) @ s
                scores.append(score / np.sqrt(depth))
            if len(visible):
                output[i] = reference.softmax(np.array(scores)) @ (value[visible] @ wv[:, part])
        heads.append(output)
    return np.concatenate(heads, axis=-1) @ wo


@pytest.mark.parametrize("past", [0, 3])
def test_attention_equals_the_formula(rng, past):
    x = examples(rng, past=past)
    query, value = normal(rng, 2, 7, HIDDEN), normal(rng, 2, past + 5, HIDDEN)
    attention, weights = make_attention(rng)
    context = RelativeContext(HIDDEN)(**x)
    output, scores = attention(query, value=value, return_scores=True, **context)
    facts = brute_force(**x)
    expected = [
        attention_formula(weights, *of_one) for of_one in zip(query, value, *facts, strict=True)
    ]
    battery.assert_close(battery.numpy(output), np.stack(expected), 1e-4)
    sums = battery.numpy(scores).sum(axis=-1)
    battery.assert_close(sums, np.broadcast_to(facts[0].any(-1)[:, None], sums.shape), 1e-5)


def test_a_query_that_may_attend_to_nothing_gets_zeros(rng):
    attention, _ = make_attention(rng)
    x = examples(rng, batch=1, length=1, predictions=1)  # all that there is stands at its place
    output = attention(normal(rng, 1, 2, HIDDEN), value=normal(rng, 1, 1, HIDDEN), **context_of(x))
    assert not battery.numpy(output)[0, 1].any()


def context_of(x):
    return RelativeContext(HIDDEN)(**x)


def test_padding_in_front_changes_nothing(rng):
    """Distances count, not positions: a text may stand anywhere."""
    attention, _ = make_attention(rng)
    x = normal(rng, 1, 5, HIDDEN)
    moved = np.concatenate([normal(rng, 1, 3, HIDDEN), x], axis=1)
    segments = np.array([[0, 0, 0, 0, 0, 1, 1, 0]])
    real = np.arange(8)[None] >= 3
    here = attention(x, **RelativeContext(HIDDEN)(real[:, 3:], segments[:, 3:]))
    there = attention(moved, **RelativeContext(HIDDEN)(real, segments))
    battery.assert_close(battery.numpy(there)[:, 3:], battery.numpy(here), 1e-5)


def test_attention_battery(rng, tmp_path):
    arguments = {  # as many distances as examples: a batch has one size
        "query": normal(rng, 3, 2, HIDDEN),
        "relative_encoding": normal(rng, 3, HIDDEN),
        "relative_index": rng.integers(0, 3, (3, 2, 2), dtype="int32"),
        "different_segment": rng.random((3, 2, 2)) < 0.5,
        "attention_mask": rng.random((3, 2, 2)) < 0.7,
    }
    battery.check_layer(
        lambda **kw: RelativeMultiHeadAttention(HIDDEN, HEADS, name="attention", **kw),
        arguments,
        tmp_path,
    )


def test_a_mask_of_numbers_is_refused(rng):
    context = context_of(examples(rng)) | {"attention_mask": np.ones((2, 7, 5))}
    attention, _ = make_attention(rng)
    with pytest.raises(TypeError, match="must be boolean"):
        attention(normal(rng, 2, 7, HIDDEN), value=normal(rng, 2, 5, HIDDEN), **context)


# === TwoStreamBlock ===


def test_block_battery(rng, tmp_path):
    x = examples(rng)
    arguments = {
        "streams": normal(rng, 2, 7, HIDDEN),
        "padding_mask": x["padding_mask"],
        "segment_ids": x["segment_ids"].astype("int32"),
        "attention_mask": x["attention_mask"],
        "query_positions": x["query_positions"].astype("int32"),
    }
    battery.check_layer(lambda **kw: Streams(name="two_streams", **kw), arguments, tmp_path)


@pytest.mark.parametrize("norm_first", [False, True])
def test_block_with_memory_is_the_block_on_all_in_a_graph(rng, norm_first):
    """The last positions, with those before as memory, get what they get in one piece."""
    block = TwoStreamBlock(HIDDEN, HEADS, 10, norm_first=norm_first)
    x = normal(rng, 2, 8, HIDDEN)
    segments = rng.integers(0, 2, (2, 8))
    real = np.arange(8) >= [[0], [2]]
    block(x, RelativeContext(HIDDEN)(real, segments))
    block.set_weights([normal(rng, *w.shape) for w in block.get_weights()])
    expected = block(x, RelativeContext(HIDDEN)(real, segments))

    def last(x):
        past = {"padding_mask": real[:, :5], "segment_ids": segments[:, :5]}
        context = RelativeContext(HIDDEN)(real[:, 5:], segments[:, 5:], memory=past)
        return block(x[:, 5:], context, memory=x[:, :5])

    actual = battery.compiled(last)(x)
    battery.assert_close(battery.numpy(actual), battery.numpy(expected)[:, 5:], 1e-5)


def test_both_streams_share_the_formula(rng):
    """With the same vector and the same mask, a query gets what content gets."""
    block = TwoStreamBlock(HIDDEN, HEADS, 10)
    content = normal(rng, 1, 4, HIDDEN)
    segments, real = np.zeros((1, 4), int), np.ones((1, 4), bool)
    positions = np.array([[2, 0]])
    streams = np.concatenate([content, content[:, positions[0]]], axis=1)
    context = battery.numpy(RelativeContext(HIDDEN)(real, segments, query_positions=positions))
    context["attention_mask"][:] = True  # queries see their own place too, for once
    output = battery.numpy(block(streams, context))
    battery.assert_close(output[:, 4:], output[:, positions[0]], 1e-5)

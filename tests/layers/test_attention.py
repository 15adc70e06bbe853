import math

import battery
import keras
import numpy as np
import numpy_reference as reference
import pytest

from keras_llm.layers import MultiHeadAttention, scaled_dot_product_attention
from keras_llm.layers.attention import causal_mask


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def normal(rng, *shape):
    return rng.normal(size=shape).astype("float32")


# === scaled_dot_product_attention ===


def test_the_cat_sat_on_the_mat():
    words = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]]  # The cat sat
    words += [[0.2, 0.3, 0.4], [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]]  # on the mat
    output, scores = scaled_dot_product_attention([words[2]], words, words, return_scores=True)

    # "sat" times each word, by hand: .7 * .1 + .8 * .2 + .9 * .3 = .5 and so on.
    products = [0.50, 1.22, 1.94, 0.74, 0.50, 1.46]
    exponentials = [math.exp(product / math.sqrt(3)) for product in products]
    expected = np.array(exponentials) / sum(exponentials)
    battery.assert_close(battery.numpy(scores)[0], expected, 1e-6)
    battery.assert_close(battery.numpy(output)[0], expected @ np.array(words), 1e-6)
    assert battery.numpy(scores).argmax() == 2, "sat resembles itself most"


def test_hello_world_in_chinese():
    words = [[1, 0, 1], [0, 1, 0]]  # 你好, 世界: integers, as in the lecture
    output, scores = scaled_dot_product_attention(words, words, words, return_scores=True)
    # 你好: products 2 and 0; e^(2 / sqrt 3) = 3.1731. 世界: 0 and 1; e^(1 / sqrt 3) = 1.7813.
    expected = [[3.1731 / 4.1731, 1 / 4.1731], [1 / 2.7813, 1.7813 / 2.7813]]
    battery.assert_close(battery.numpy(scores), np.array(expected), 1e-4)
    battery.assert_close(battery.numpy(output), np.array(expected) @ words, 1e-4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)], ids=str)
def test_equals_the_formula(rng, leading, masked):
    q, k, v = normal(rng, *leading, 5, 4), normal(rng, *leading, 7, 4), normal(rng, *leading, 7, 6)
    mask = rng.random((*leading, 5, 7)) < 0.5 if masked else None
    output, scores = battery.numpy(scaled_dot_product_attention(q, k, v, mask, return_scores=True))
    for index in np.ndindex(leading):
        expected = reference.attention(
            q[index].astype("float64"), k[index], v[index], mask[index] if masked else None
        )
        battery.assert_close((output[index], scores[index]), expected, 1e-5)


def test_gradients_equal_finite_differences(rng):
    q, k, v = normal(rng, 3, 4), normal(rng, 5, 4), normal(rng, 5, 2)
    mask = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=bool)
    seen = normal(rng, 3, 2)  # weighs the outputs, or all gradients of the softmax would vanish
    actual = battery.gradients(
        lambda *qkv: keras.ops.sum(scaled_dot_product_attention(*qkv, mask) * seen), q, k, v
    )
    arrays = [q.astype("float64"), k.astype("float64"), v.astype("float64")]
    for array, gradient in zip(arrays, actual, strict=True):
        for index in np.ndindex(array.shape):
            value, sums = array[index], []
            for step in (1e-6, -1e-6):
                array[index] = value + step
                sums.append((reference.attention(*arrays, mask)[0] * seen).sum())
            array[index] = value
            assert abs(gradient[index] - (sums[0] - sums[1]) / 2e-6) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_who_may_attend_to_nothing_gets_zeros(rng, dtype):
    q, k, v = (keras.ops.cast(normal(rng, 2, 3, 4), dtype) for _ in range(3))
    mask = np.ones((2, 3, 3), dtype=bool)
    mask[0, 1] = False
    output, scores = scaled_dot_product_attention(q, k, v, mask, return_scores=True)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    assert keras.backend.standardize_dtype(scores.dtype) == dtype
    output, scores = battery.numpy((output, scores))
    assert (output[0, 1] == 0).all() and (scores[0, 1] == 0).all()
    battery.assert_close(scores.sum(-1)[mask.any(-1)], np.ones(5), 1e-2)

    def loss(q, k, v):
        return keras.ops.sum(keras.ops.square(scaled_dot_product_attention(q, k, v, mask)))

    dq, dk, dv = battery.gradients(loss, q, k, v)
    assert all(np.isfinite(gradient).all() for gradient in (dq, dk, dv))
    assert (dq[0, 1] == 0).all() and (dq[0, 0] != 0).any()


def test_a_single_key_is_attended_to_without_a_warning(rng, recwarn):
    q, k = normal(rng, 2, 3, 4), normal(rng, 2, 1, 4)
    mask = np.array([True, False, True])[:, None]
    for visible in (None, mask):
        output = battery.numpy(scaled_dot_product_attention(q, k, k, visible))
        expected = [reference.attention(q[i], k[i], k[i], visible)[0] for i in range(2)]
        battery.assert_close(output, np.array(expected), 1e-6)
    assert not [warning for warning in recwarn if "softmax" in str(warning.message)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_large_scores_do_not_overflow(dtype):
    # 64 products of 60 * 60 are 230,400: beyond float16, but for the scaling beforehand.
    x = keras.ops.cast(np.full((2, 64), 60.0), dtype)
    output = battery.numpy(scaled_dot_product_attention(x, x, x, [[True, False], [True, True]]))
    battery.assert_close(output, np.full((2, 64), 60.0), 1e-2)


def test_half_precision_rounds_the_result_only(rng):
    q, k, v = (np.float16(normal(rng, 8, 16)) for _ in range(3))
    _, scores = reference.attention(*(x.astype("float64") for x in (q, k, v)))
    _, actual = scaled_dot_product_attention(q, k, v, return_scores=True)
    battery.assert_close(battery.numpy(actual), scores, 2e-3)


def test_mask_broadcasts(rng):
    q, k = normal(rng, 2, 3, 4, 5), normal(rng, 2, 3, 6, 5)
    padding = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]], dtype=bool)
    narrow = scaled_dot_product_attention(q, k, k, padding[:, None, None, :])
    wide = np.broadcast_to(padding[:, None, None, :], (2, 3, 4, 6))
    full = scaled_dot_product_attention(q, k, k, wide)
    battery.assert_close(battery.numpy(narrow), battery.numpy(full))


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_tutorials_mask_is_refused_and_its_conversion_right(rng, dtype):
    x = normal(rng, 4, 3)
    hidden = np.triu(np.ones((4, 4)), 1).astype(dtype)  # the tutorial's look-ahead mask
    with pytest.raises(TypeError, match=r"boolean.*1 where a position is HIDDEN.*`mask == 0`"):
        scaled_dot_product_attention(x, x, x, hidden)
    actual = scaled_dot_product_attention(x, x, x, hidden == 0)
    logits = x @ x.T / math.sqrt(3) + hidden * -1e9  # as the tutorial computes it
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    battery.assert_close(battery.numpy(actual), weights @ x, 1e-5)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3, 4), (5, 6), (5, 6)), "same depth"),
        (((3, 4), (5, 4), (6, 4)), "one value for each key"),
        (((4,), (5, 4), (5, 4)), "at least 2 dimensions"),
    ],
)
def test_shapes_that_do_not_fit(shapes, message):
    with pytest.raises(ValueError, match=message):
        scaled_dot_product_attention(*(np.ones(shape) for shape in shapes))


@pytest.mark.parametrize("shape", [(2, 5), (3, 4), (5,), (2, 3, 5)])
def test_mask_that_does_not_broadcast(shape):
    x = np.ones((3, 2)), np.ones((5, 2)), np.ones((5, 2))
    if shape == (5,):
        assert scaled_dot_product_attention(*x, np.ones(shape, bool)).shape == (3, 2)
        return
    with pytest.raises(ValueError, match="does not broadcast"):
        scaled_dot_product_attention(*x, np.ones(shape, bool))


def test_works_on_symbolic_tensors(rng):
    x = keras.Input((5, 4))
    model = keras.Model(x, scaled_dot_product_attention(x, x, x))
    value = normal(rng, 2, 5, 4)
    battery.assert_close(
        model.predict(value, verbose=0),
        battery.numpy(scaled_dot_product_attention(value, value, value)),
        1e-6,
    )


# === MultiHeadAttention ===


def test_layer_battery(rng, tmp_path):
    arguments = {
        "query": normal(rng, 2, 5, 8),
        "value": normal(rng, 2, 7, 6),
        "key": normal(rng, 2, 7, 4),
        "attention_mask": rng.random((2, 5, 7)) < 0.7,
    }
    battery.check_layer(
        lambda **kwargs: MultiHeadAttention(12, 3, name="attention", **kwargs),
        arguments,
        tmp_path,
        options={"return_scores": True},
    )


@pytest.mark.parametrize("num_heads", [1, 3])
def test_layer_equals_the_formula(rng, num_heads):
    layer = MultiHeadAttention(6, num_heads)
    query, value = normal(rng, 2, 4, 6), normal(rng, 2, 5, 3)
    mask = rng.random((2, 4, 5)) < 0.6
    layer(query, value)
    layer.set_weights([normal(rng, *w.shape) for w in layer.get_weights()])
    outputs = battery.numpy(layer(query, value, attention_mask=mask, return_scores=True))
    for i in range(2):
        expected = reference.multi_head_attention(
            layer.get_weights(), num_heads, query[i], value[i], value[i], mask[i]
        )
        battery.assert_close((outputs[0][i], outputs[1][i]), expected, 1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_layer_equals_keras_layer(rng, causal, masked):
    query, value, key = normal(rng, 2, 5, 12), normal(rng, 2, 5, 7), normal(rng, 2, 5, 9)
    mask = np.tril(rng.random((2, 5, 5)) < 0.8) | np.eye(5, dtype=bool) if masked else None
    ours = MultiHeadAttention(12, 3)
    theirs = keras.layers.MultiHeadAttention(3, 4, output_shape=12)
    ours(query, value, key)
    theirs(query, value, key)
    weights = [normal(rng, *w.shape) for w in ours.get_weights()]
    ours.set_weights(weights)
    # Both list query, key, value, output; theirs with heads and depth as two dimensions.
    theirs.set_weights(
        [weight.reshape(w.shape) for weight, w in zip(weights, theirs.get_weights(), strict=True)]
    )
    actual = ours(query, value, key, attention_mask=mask, causal=causal, return_scores=True)
    expected = theirs(
        query,
        value,
        key,
        attention_mask=mask,
        use_causal_mask=causal,
        return_attention_scores=True,
    )
    battery.assert_close(battery.numpy(actual), battery.numpy(tuple(expected)), 1e-5)


def test_value_defaults_to_query_and_key_to_value(rng):
    layer = MultiHeadAttention(8, 2)
    x, y = normal(rng, 2, 4, 8), normal(rng, 2, 6, 8)
    battery.assert_close(battery.numpy(layer(x)), battery.numpy(layer(x, x, x)))
    battery.assert_close(battery.numpy(layer(x, y)), battery.numpy(layer(x, value=y, key=y)))


def test_the_future_cannot_change_the_past(rng):
    layer = MultiHeadAttention(8, 2)
    x = normal(rng, 2, 6, 8)
    changed = x.copy()
    changed[:, 4:] = 1e3
    before = battery.numpy(layer(x, causal=True))
    after = battery.numpy(layer(changed, causal=True))
    battery.assert_close(after[:, :4], before[:, :4], 1e-6)
    assert np.abs(after[:, 4:] - before[:, 4:]).max() > 1


def test_causal_holds_beside_the_mask(rng):
    layer = MultiHeadAttention(8, 2)
    x = normal(rng, 2, 5, 8)
    mask = rng.random((2, 5, 5)) < 0.7
    battery.assert_close(
        battery.numpy(layer(x, attention_mask=mask, causal=True)),
        battery.numpy(layer(x, attention_mask=mask & np.tril(np.ones((5, 5), bool)))),
        1e-6,
    )


def test_padding_changes_nothing(rng):
    layer = MultiHeadAttention(8, 2)
    x = normal(rng, 1, 4, 8)
    padded = np.concatenate([x, np.full((1, 3, 8), 7, "float32")], axis=1)
    visible = np.array([[[True] * 4 + [False] * 3]])
    actual = battery.numpy(layer(padded, attention_mask=visible))[:, :4]
    battery.assert_close(actual, battery.numpy(layer(x)), 1e-6)


@pytest.mark.parametrize("pieces", [(6,), (1,) * 6, (3, 1, 2)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_cached_equals_uncached(rng, pieces, dtype):
    layer = MultiHeadAttention(8, 2, dtype=dtype)
    x = normal(rng, 2, 6, 8)
    mask = np.ones((2, 1, 9), dtype=bool)
    mask[1, :, :2] = False  # the second text is padded on its left
    expected = battery.numpy(layer(x, attention_mask=mask[:, :, :6], causal=True))

    cache, outputs, index = np.zeros((2, 2, 2, 9, 4), "float32"), [], 0
    for length in pieces:
        piece = x[:, index : index + length]
        output, scores, cache = layer(
            piece, attention_mask=mask, cache=cache, cache_index=index, return_scores=True
        )
        assert tuple(scores.shape) == (2, 2, length, 9)
        outputs.append(battery.numpy(output))
        index += length
    tolerance = battery.PRECISIONS[dtype]
    battery.assert_close(np.concatenate(outputs, axis=1), expected, tolerance)
    assert (battery.numpy(cache)[:, :, :, 6:] == 0).all(), "slots of the future stay empty"


def test_cache_in_a_compiled_loop(rng):
    layer = MultiHeadAttention(8, 2)
    x = keras.ops.convert_to_tensor(normal(rng, 2, 6, 8))
    expected = battery.numpy(layer(x, causal=True))

    @battery.compiled
    def decode(x, cache, outputs):
        def step(index, cache, outputs):
            piece = keras.ops.slice(x, (0, index, 0), (2, 1, 8))
            output, cache = layer(piece, cache=cache, cache_index=index)
            return index + 1, cache, keras.ops.slice_update(outputs, (0, index, 0), output)

        return keras.ops.while_loop(lambda i, *_: i < 6, step, (0, cache, outputs))[2]

    actual = decode(x, keras.ops.zeros((2, 2, 2, 6, 4)), keras.ops.zeros((2, 6, 8)))
    battery.assert_close(battery.numpy(actual), expected, 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_precomputed_keys_and_values(rng, dtype):
    layer = MultiHeadAttention(8, 2, dtype=dtype)
    x, value, key = normal(rng, 2, 4, 8), normal(rng, 2, 5, 6), normal(rng, 2, 5, 7)
    mask = rng.random((2, 4, 5)) < 0.7
    expected = battery.numpy(layer(x, value, key, attention_mask=mask, return_scores=True))
    cache = layer.keys_and_values(value, key)
    actual = layer(x, attention_mask=mask, cache=cache, return_scores=True)
    battery.assert_close(battery.numpy(actual), expected)


def test_cache_errors(rng):
    layer = MultiHeadAttention(8, 2)
    x, cache = normal(rng, 1, 3, 8), np.zeros((1, 2, 2, 4, 4), "float32")
    with pytest.raises(ValueError, match=r"3 tokens from position 2 do not fit .* 4 positions"):
        layer(x, cache=cache, cache_index=2)
    with pytest.raises(ValueError, match="there is no cache"):
        layer(x, cache_index=0)


def test_dropout_of_scores_in_training_only(rng):
    layer = MultiHeadAttention(8, 2, dropout=0.5)
    x = normal(rng, 2, 6, 8)
    calm, dropped = battery.numpy((layer(x), layer(x, training=True)))
    assert np.abs(calm - dropped).max() > 1e-3
    battery.assert_close(battery.numpy(layer(x, training=False)), calm)


def test_kernels_start_different(rng):
    layer = MultiHeadAttention(8, 2)
    layer(normal(rng, 1, 2, 8))
    kernels = [w for w in layer.get_weights() if w.ndim == 2]
    assert len({kernel.tobytes() for kernel in kernels}) == 4


def test_layer_errors(rng):
    for hidden_dim, num_heads in [(10, 3), (8, 0), (0, 1)]:
        with pytest.raises(ValueError, match=f"hidden_dim={hidden_dim}, num_heads={num_heads}"):
            MultiHeadAttention(hidden_dim, num_heads)
    layer = MultiHeadAttention(8, 2)
    x = normal(rng, 2, 3, 8)
    with pytest.raises(TypeError, match="must be boolean"):
        layer(x, attention_mask=np.ones((2, 3, 3), "float32"))
    with pytest.raises(ValueError, match=r"padding_mask\[:, None, :\]"):
        layer(x, attention_mask=np.ones((2, 3), bool))
    with pytest.raises(ValueError, match="does not broadcast"):
        layer(x, attention_mask=np.ones((2, 3, 4), bool))
    with pytest.raises(ValueError, match="one value for each key"):
        layer(x, value=normal(rng, 2, 5, 8), key=normal(rng, 2, 4, 8))


def test_causal_mask_of_a_later_piece():
    full = battery.numpy(causal_mask(6, 6))
    np.testing.assert_array_equal(full, np.tril(np.ones((6, 6), bool)))
    np.testing.assert_array_equal(battery.numpy(causal_mask(2, 6, start=3)), full[3:5])


# === What models changed since ===


@pytest.mark.parametrize("key_value_heads", [1, 2, 6])
def test_grouped_heads_equal_the_formula(rng, key_value_heads):
    """Against PyTorch's own grouped-query attention, with other depths and no biases."""
    torch = pytest.importorskip("torch")
    layer = MultiHeadAttention(
        8, 6, num_key_value_heads=key_value_heads, head_dim=4, use_bias=False
    )
    x = normal(rng, 2, 5, 8)
    actual = battery.numpy(layer(x, causal=True))
    assert [w.path.split("/")[-1] for w in layer.weights] == ["kernel"] * 4

    def heads(dense, count):
        projected = (x @ dense.kernel.numpy()).reshape(2, 5, count, 4)
        return torch.tensor(projected).transpose(1, 2)

    expected = torch.nn.functional.scaled_dot_product_attention(
        heads(layer.query_dense, 6),
        heads(layer.key_dense, key_value_heads),
        heads(layer.value_dense, key_value_heads),
        is_causal=True,
        enable_gqa=True,
    )
    expected = expected.transpose(1, 2).reshape(2, 5, 24).numpy()
    battery.assert_close(actual, expected @ layer.output_dense.kernel.numpy(), 1e-5)


def test_grouped_and_rotary_battery(rng, tmp_path):
    battery.check_layer(
        lambda **kwargs: MultiHeadAttention(
            8, 4, num_key_value_heads=2, rotary={"max_wavelength": 100.0}, name="a", **kwargs
        ),
        {"query": normal(rng, 2, 5, 8), "position_bias": normal(rng, 2, 4, 5, 5)},
        tmp_path,
        options={"causal": True},
    )


def test_grouped_and_rotary_cache(rng):
    layer = MultiHeadAttention(8, 4, num_key_value_heads=2, rotary={"max_wavelength": 100.0})
    x = normal(rng, 2, 6, 8)
    whole = battery.numpy(layer(x, causal=True))
    cache = np.zeros((2, 2, 2, 6, 2), "float32")
    step = battery.compiled(lambda x, cache, index: layer(x, cache=cache, cache_index=index))
    for start in (0, 2, 4):
        index = keras.ops.convert_to_tensor(start)
        piece, cache = step(x[:, start : start + 2], cache, index)
        battery.assert_close(battery.numpy(piece), whole[:, start : start + 2], 1e-5)


def test_bias_and_scale_equal_the_formula(rng):
    layer = MultiHeadAttention(6, 3, scaled=False)
    x, bias = normal(rng, 1, 4, 6), normal(rng, 1, 3, 4, 4)
    _, scores = battery.numpy(layer(x, position_bias=bias, return_scores=True))
    q, k = (
        (x[0] @ dense.kernel.numpy()).reshape(4, 3, 2).swapaxes(0, 1)
        for dense in (layer.query_dense, layer.key_dense)
    )
    expected = np.exp(q @ k.swapaxes(1, 2) + bias[0])
    battery.assert_close(scores[0], expected / expected.sum(-1, keepdims=True), 1e-5)


def test_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="num_heads=6 must be a multiple of num_key_value_heads=4"):
        MultiHeadAttention(12, 6, num_key_value_heads=4)

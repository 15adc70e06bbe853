import battery
import keras
import numpy as np
import numpy_reference as reference
import pytest

from keras_llm.layers import FeedForward, gelu


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(2, 5, 6)).astype("float32")


def test_battery(x, tmp_path):
    for options in ({}, {"gated": True, "use_bias": False, "activation": "silu"}):
        battery.check_layer(
            lambda options=options, **kw: FeedForward(12, 8, name="feed_forward", **options, **kw),
            {"x": x},
            tmp_path,
        )


def test_equals_the_formula(x):
    layer = FeedForward(12)
    output = battery.numpy(layer(x))
    w1, b1, w2, b2 = layer.get_weights()
    battery.assert_close(output, reference.gelu(x @ w1 + b1) @ w2 + b2, 1e-5)


def test_swiglu_equals_the_formula(x):
    layer = FeedForward(12, activation="silu", gated=True, use_bias=False)
    output = battery.numpy(layer(x))
    weights = {w.path.split("/")[-2]: w.numpy() for w in layer.weights}
    assert len(weights) == len(layer.weights) == 3
    gate = x @ weights["intermediate_dense"]
    swish = gate / (1 + np.exp(-gate))
    expected = (swish * (x @ weights["gated_dense"])) @ weights["output_dense"]
    battery.assert_close(output, expected, 1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2**-8), ("float16", 2**-11)]
)
def test_gelu_is_exact_to_rounding(dtype, tolerance):
    x = keras.ops.cast(np.linspace(-6, 6, 999), dtype)
    expected = reference.gelu(battery.numpy(x).astype("float64"))
    actual = battery.numpy(gelu(x))
    assert keras.backend.standardize_dtype(gelu(x).dtype) == dtype
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=1e-6)


def test_other_activations_and_dropout(x):
    layer = FeedForward(12, activation="relu", dropout=0.5)
    output = battery.numpy(layer(x))
    w1, b1, w2, b2 = layer.get_weights()
    battery.assert_close(output, np.maximum(x @ w1 + b1, 0) @ w2 + b2, 1e-5)
    dropped = battery.numpy(layer(x, training=True))
    assert 0.2 < (dropped == 0).mean() < 0.8
    battery.assert_close(dropped[dropped != 0], 2 * output[dropped != 0], 1e-5)

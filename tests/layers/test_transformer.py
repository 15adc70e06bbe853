import battery
import numpy as np
import numpy_reference as reference
import pytest

from keras_llm.layers import EncoderBlock


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def normal(rng, *shape):
    return rng.normal(size=shape).astype("float32")


@pytest.mark.parametrize("norm_first", [False, True])
def test_battery(rng, tmp_path, norm_first):
    arguments = {
        "x": normal(rng, 2, 5, 6),
        "padding_mask": np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=bool),
        "attention_mask": rng.random((2, 5, 5)) < 0.8,
    }
    battery.check_layer(
        lambda **kw: EncoderBlock(6, 3, 12, norm_first=norm_first, name="block", **kw),
        arguments,
        tmp_path,
    )


@pytest.mark.parametrize("norm_first", [False, True])
def test_equals_the_formula(rng, norm_first):
    layer = EncoderBlock(6, 3, 12, norm_first=norm_first, layer_norm_epsilon=1e-3)
    x = normal(rng, 5, 6)
    layer(x[None])
    layer.set_weights([normal(rng, *w.shape) for w in layer.get_weights()])
    weights = {w.path.split("/", 1)[1]: np.float64(w.numpy()) for w in layer.weights}
    visible = np.array([True, True, True, False, True])
    attention = [w for path, w in weights.items() if path.startswith("self_attention")]

    def norm(name, x):
        return reference.layer_norm(x, weights[f"{name}/gamma"], weights[f"{name}/beta"], 1e-3)

    def attend(x):
        mask = np.broadcast_to(visible, (5, 5))
        return reference.multi_head_attention(attention, 3, x, x, x, mask)

    def feed_forward(x):
        w1, b1, w2, b2 = (w for path, w in weights.items() if path.startswith("feed_forward/"))
        return reference.gelu(x @ w1 + b1) @ w2 + b2

    if norm_first:
        attended, scores = attend(norm("attention_norm", x))
        expected = x + attended
        expected = expected + feed_forward(norm("feed_forward_norm", expected))
    else:
        attended, scores = attend(x)
        expected = norm("attention_norm", x + attended)
        expected = norm("feed_forward_norm", expected + feed_forward(expected))

    actual = layer(x[None], padding_mask=visible[None], return_scores=True)
    battery.assert_close(battery.numpy(actual), (expected[None], scores[None]), 1e-4)


def test_masks_hold_together(rng):
    layer = EncoderBlock(6, 3, 12)
    x = normal(rng, 2, 5, 6)
    padding_mask, attention_mask = rng.random((2, 5)) < 0.7, rng.random((2, 5, 5)) < 0.7
    battery.assert_close(
        battery.numpy(layer(x, padding_mask=padding_mask, attention_mask=attention_mask)),
        battery.numpy(layer(x, attention_mask=padding_mask[:, None] & attention_mask)),
    )


def test_errors(rng):
    layer, x = EncoderBlock(6, 3, 12), normal(rng, 2, 5, 6)
    ones, visible = np.ones((2, 5), "int32"), np.ones((2, 5), bool)
    with pytest.raises(TypeError, match="must be boolean"):
        layer(x, padding_mask=ones)
    with pytest.raises(TypeError, match="must be boolean"):
        layer(x, padding_mask=visible, attention_mask=ones[:, None])
    with pytest.raises(ValueError, match=r"shape \(batch, length\)"):
        layer(x, padding_mask=visible[:, None])
    with pytest.raises(ValueError, match="hidden_dim=6"):
        EncoderBlock(6, 3, 12)(normal(rng, 2, 5, 7))
    with pytest.raises(ValueError, match="multiple of num_heads"):
        EncoderBlock(6, 4, 12)

import battery
import keras
import numpy as np
import numpy_reference as reference
import pytest
import torch
import torch_weights

from keras_llm.layers import CausalBlock, DecoderBlock, EncoderBlock


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


# === DecoderBlock ===


def decoder_arguments(rng):
    return {
        "x": normal(rng, 2, 5, 6),
        "encoder_output": normal(rng, 2, 7, 6),
        "padding_mask": np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=bool),
        "encoder_padding_mask": np.array([[1] * 7, [1] * 4 + [0] * 3], dtype=bool),
    }


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_battery(rng, tmp_path, norm_first):
    battery.check_layer(
        lambda **kw: DecoderBlock(6, 3, 12, norm_first=norm_first, name="block", **kw),
        decoder_arguments(rng),
        tmp_path,
        options={"return_scores": True},
    )


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_equals_pytorch(rng, norm_first):
    ours = DecoderBlock(6, 3, 12, norm_first=norm_first, activation="relu")
    arguments = decoder_arguments(rng)
    ours(**arguments)
    ours.set_weights([normal(rng, *w.shape) for w in ours.get_weights()])
    theirs = torch.nn.TransformerDecoderLayer(
        6, 3, 12, activation="relu", norm_first=norm_first, batch_first=True
    ).eval()
    torch_weights.decoder_layer(theirs, ours)
    with torch.no_grad():
        expected = theirs(
            torch.tensor(arguments["x"]),
            torch.tensor(arguments["encoder_output"]),
            tgt_mask=torch.triu(torch.ones(5, 5, dtype=torch.bool), 1),  # True = hidden
            tgt_key_padding_mask=torch.tensor(~arguments["padding_mask"]),
            memory_key_padding_mask=torch.tensor(~arguments["encoder_padding_mask"]),
        ).numpy()
    battery.assert_close(battery.numpy(ours(**arguments)), expected, 1e-5)


def test_the_future_cannot_change_the_past(rng):
    layer, arguments = DecoderBlock(6, 3, 12), decoder_arguments(rng)
    before = battery.numpy(layer(**arguments))
    arguments["x"][:, 3:] += 10
    after = battery.numpy(layer(**arguments))
    battery.assert_close(after[:, :3], before[:, :3], 1e-6)
    assert np.abs(after[:, 3:] - before[:, 3:]).max() > 0.1


def test_padding_of_the_source_changes_nothing(rng):
    layer, arguments = DecoderBlock(6, 3, 12), decoder_arguments(rng)
    before = battery.numpy(layer(**arguments))
    arguments["encoder_output"][1, 4:] = 1e3
    battery.assert_close(battery.numpy(layer(**arguments)), before, 1e-6)


@pytest.mark.parametrize("dtype", battery.PRECISIONS)
def test_who_sees_no_source_gets_zeros_from_it(rng, dtype):
    layer, arguments = DecoderBlock(6, 3, 12, dtype=dtype), decoder_arguments(rng)
    arguments["encoder_padding_mask"] = np.zeros((2, 7), bool)
    output, _, scores = battery.numpy(layer(**arguments, return_scores=True))
    assert np.isfinite(output).all() and not scores.any()


@pytest.mark.parametrize("dtype", battery.PRECISIONS)
def test_cached_equals_uncached(rng, dtype):
    layer, arguments = DecoderBlock(6, 3, 12, dtype=dtype), decoder_arguments(rng)
    expected = battery.numpy(layer(**arguments))
    cross_cache = layer.cross_attention.keys_and_values(arguments["encoder_output"])
    cache, outputs = np.zeros((2, 2, 3, 5, 2), "float32"), []
    for index in range(5):
        output, _, cross_scores, cache = layer(
            arguments["x"][:, index : index + 1],
            padding_mask=arguments["padding_mask"],
            encoder_padding_mask=arguments["encoder_padding_mask"],
            cache=cache,
            cache_index=index,
            cross_cache=cross_cache,
            return_scores=True,
        )
        assert tuple(cross_scores.shape) == (2, 3, 1, 7)
        outputs.append(battery.numpy(output))
    outputs = np.concatenate(outputs, axis=1)
    battery.assert_close(outputs, expected, battery.PRECISIONS[dtype])


def test_decoder_errors(rng):
    layer, arguments = DecoderBlock(6, 3, 12), decoder_arguments(rng)
    with pytest.raises(ValueError, match=r"encoder's output, or a cross_cache"):
        layer(arguments["x"])
    arguments["encoder_padding_mask"] = np.ones((2, 7), "float32")
    with pytest.raises(TypeError, match="must be boolean"):
        layer(**arguments)


# === CausalBlock and what models changed since ===

MODERN = {
    "norm_first": True,
    "normalization": "rms",
    "use_bias": False,
    "gated": True,
    "activation": "silu",
    "attention": {"num_key_value_heads": 1, "rotary": {"max_wavelength": 100.0}},
}


@pytest.mark.parametrize("options", [{"norm_first": True}, MODERN], ids=["gpt2", "llama"])
def test_causal_battery(rng, tmp_path, options):
    battery.check_layer(
        lambda **kw: CausalBlock(6, 3, 12, name="block", **options, **kw),
        {"x": normal(rng, 2, 5, 6), "attention_mask": rng.random((2, 5, 5)) < 0.8},
        tmp_path,
    )


def test_causal_is_an_encoder_block_with_a_mask(rng):
    causal, encoder = CausalBlock(6, 3, 12), EncoderBlock(6, 3, 12)
    x, padding = normal(rng, 2, 5, 6), np.arange(5) < [[5], [3]]
    encoder(x), causal(x)
    encoder.set_weights(causal.get_weights())
    mask = np.broadcast_to(np.tril(np.ones((5, 5), bool)), (2, 5, 5))
    battery.assert_close(
        battery.numpy(causal(x, padding_mask=padding, return_scores=True)),
        battery.numpy(encoder(x, padding_mask=padding, attention_mask=mask, return_scores=True)),
        1e-6,
    )


def test_causal_cached_equals_uncached(rng):
    block = CausalBlock(6, 3, 12, **MODERN)
    x = normal(rng, 2, 5, 6)
    whole = battery.numpy(block(x))
    cache = np.zeros((2, 2, 1, 5, 2), "float32")
    step = battery.compiled(lambda x, cache, index: block(x, cache=cache, cache_index=index))
    for position in range(5):
        index = keras.ops.convert_to_tensor(position)
        output, cache = step(x[:, position : position + 1], cache, index)
        battery.assert_close(battery.numpy(output)[:, 0], whole[:, position], 1e-5)


def test_rms_block_without_biases_equals_the_formula(rng):
    options = {"norm_first": True, "normalization": "rms", "use_bias": False, "activation": "relu"}
    block = EncoderBlock(6, 3, 12, layer_norm_epsilon=1e-6, **options)
    x, bias = normal(rng, 4, 6), normal(rng, 3, 4, 4)
    block(x[None])
    block.set_weights([normal(rng, *w.shape) for w in block.get_weights()])
    weights = {w.path.split("/", 1)[1]: np.float64(w.numpy()) for w in block.weights}
    assert len(weights) == 8

    def norm(name, x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weights[f"{name}/scale"]

    h = norm("attention_norm", x)
    q, k, v = (
        (h @ weights[f"self_attention/{name}_dense/kernel"]).reshape(4, 3, 2).swapaxes(0, 1)
        for name in ("query", "key", "value")
    )
    scores = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(2) + bias)
    scores /= scores.sum(-1, keepdims=True)
    gathered = (scores @ v).swapaxes(0, 1).reshape(4, 6)
    expected = x + gathered @ weights["self_attention/output_dense/kernel"]
    h = norm("feed_forward_norm", expected) @ weights["feed_forward/intermediate_dense/kernel"]
    expected = expected + np.maximum(h, 0) @ weights["feed_forward/output_dense/kernel"]
    battery.assert_close(battery.numpy(block(x[None], position_bias=bias[None]))[0], expected, 1e-4)


def test_another_normalization():
    with pytest.raises(ValueError, match='"layer" or "rms", not \'batch\''):
        EncoderBlock(6, 3, 12, normalization="batch")

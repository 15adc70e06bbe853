import math

import battery
import keras
import numpy as np
import pytest

from keras_llm.layers import (
    PositionEmbedding,
    RelativePositionBias,
    RotaryEmbedding,
    SinePositionEncoding,
)


def test_batteries(tmp_path):
    x = {"x": np.zeros((2, 5, 6), "float32")}
    battery.check_layer(lambda **kw: SinePositionEncoding(name="sine", **kw), x, tmp_path)
    battery.check_layer(lambda **kw: PositionEmbedding(7, name="learned", **kw), x, tmp_path)
    battery.check_layer(
        lambda **kw: RotaryEmbedding(500.0, scaling_factor=2.0, name="rotary", **kw),
        {"x": np.random.default_rng(0).normal(size=(2, 3, 5, 6)).astype("float32")},
        tmp_path,
    )
    one = {"x": np.zeros((1, 5, 6), "float32")}  # the bias is the same for a whole batch
    battery.check_layer(lambda **kw: RelativePositionBias(3, 8, name="b", **kw), one, tmp_path)


@pytest.mark.parametrize("hidden_dim", [6, 7])
def test_sines_equal_the_formula(hidden_dim):
    encoding = battery.numpy(SinePositionEncoding()(np.zeros((1, 50, hidden_dim), "float32")))
    for position in range(50):
        for feature in range(hidden_dim):
            i = feature // 2
            angle = position / 10000 ** (2 * i / hidden_dim)
            expected = math.sin(angle) if feature % 2 == 0 else math.cos(angle)
            assert encoding[0, position, feature] == pytest.approx(expected, abs=1e-5)


def test_neighbours_differ_in_half_precision():
    # 1000 and 1001 are one number in bfloat16; their encodings must not be.
    x = np.zeros((1, 2, 8), "float32")
    precise = battery.numpy(SinePositionEncoding()(x, start_index=1000))
    half = battery.numpy(SinePositionEncoding(dtype="bfloat16")(x, start_index=1000))
    battery.assert_close(half, precise, 5e-3)
    assert np.abs(half[0, 0] - half[0, 1]).max() > 0.1


@pytest.mark.parametrize(
    "layer", [SinePositionEncoding(), PositionEmbedding(9), RotaryEmbedding()], ids=type
)
def test_start_index_continues(layer):
    whole = battery.numpy(layer(np.ones((2, 9, 4), "float32")))
    piece = np.ones((2, 3, 4), "float32")
    battery.assert_close(battery.numpy(layer(piece, start_index=4)), whole[:, 4:7], 1e-6)
    index = keras.ops.convert_to_tensor(4)
    battery.assert_close(battery.numpy(layer(piece, start_index=index)), whole[:, 4:7], 1e-6)
    in_graph = battery.compiled(lambda index: layer(piece, start_index=index))
    battery.assert_close(battery.numpy(in_graph(index)), whole[:, 4:7], 1e-6)


def test_learned_rows_are_the_positions():
    layer = PositionEmbedding(8)
    output = battery.numpy(layer(np.zeros((3, 5, 4), "float32")))
    table = layer.get_weights()[0]
    battery.assert_close(output, np.broadcast_to(table[:5], (3, 5, 4)))
    positions = np.array([[0, 1, 2, 0, 1], [7, 0, 1, 2, 3], [3, 3, 3, 3, 3]])
    output = battery.numpy(layer(np.zeros((3, 5, 4), "float32"), positions=positions))
    battery.assert_close(output, table[positions])


def test_sequence_longer_than_positions():
    layer = PositionEmbedding(8)
    for length, start in [(9, 0), (3, 6)]:
        with pytest.raises(ValueError, match=r"reaches position 9.*max_sequence_length=8"):
            layer(np.zeros((1, length, 4), "float32"), start_index=start)
    with pytest.raises(ValueError, match="positive integer"):
        PositionEmbedding(None)


# === RotaryEmbedding ===


def test_rotary_equals_the_formula():
    """Features i and i + depth / 2 as a complex number, times e^(i angle)."""
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 10))
    angles = np.arange(7)[:, None] / 1000.0 ** (np.arange(5) / 5)
    turned = (x[..., :5] + 1j * x[..., 5:]) * np.exp(1j * angles)
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    actual = battery.numpy(RotaryEmbedding(1000)(x.astype("float32")))
    battery.assert_close(actual, expected, 1e-5)


def test_products_depend_on_the_distance_alone():
    q, k = np.random.default_rng(0).normal(size=(2, 1, 16)).astype("float32")
    layer = RotaryEmbedding()

    def product(query_position, key_position):
        turned = layer(q, start_index=query_position), layer(k, start_index=key_position)
        return float(np.vdot(*battery.numpy(turned)))

    expected = product(5, 2)
    assert product(1005, 1002) == pytest.approx(expected, abs=1e-3)
    assert abs(product(5, 3) - expected) > 1e-2


@pytest.mark.parametrize("factor", [1.0, 8.0])
def test_rotary_equals_transformers_llama(factor):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    parameters = {"rope_type": "default", "rope_theta": 500000.0}
    if factor > 1:
        parameters |= {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    config = transformers.LlamaConfig(
        hidden_size=64, num_attention_heads=2, head_dim=32, rope_parameters=parameters
    )
    x = np.random.default_rng(0).normal(size=(1, 2, 200, 32)).astype("float32")
    tensor = torch.tensor(x)
    cos, sin = LlamaRotaryEmbedding(config)(tensor, torch.arange(200)[None])
    expected, _ = apply_rotary_pos_emb(tensor, tensor, cos, sin)
    layer = RotaryEmbedding(500000.0, scaling_factor=factor, original_length=64)
    battery.assert_close(battery.numpy(layer(x)), expected.numpy(), 1e-4)


def test_rotary_refuses_an_odd_depth():
    with pytest.raises(ValueError, match="depth 5 must be even"):
        RotaryEmbedding()(np.zeros((1, 2, 5), "float32"))


# === RelativePositionBias ===


def buckets(bidirectional, distances):
    """The buckets of some distances, read off a table that holds its own row numbers."""
    layer = RelativePositionBias(1, bidirectional=bidirectional)
    layer.build((1, 1, 1))
    layer.set_weights([np.arange(32.0)[:, None]])
    span = max(map(abs, distances))
    x = np.zeros((1, 2 * span + 1, 1), "float32")
    row = battery.numpy(layer(x))[0, 0, span]  # the query in the middle
    return [int(row[span + distance]) for distance in distances]


def test_near_distances_have_a_bucket_each_and_far_ones_share():
    # 32 buckets, 16 each way: 8 exact, then 8 whose bounds grow by 16^(1/8) up to 128.
    assert buckets(True, range(0, -8, -1)) == list(range(8))
    assert buckets(True, range(1, 8)) == [16 + distance for distance in range(1, 8)]
    bounds = [math.ceil(8 * 16 ** (i / 8) - 1e-9) for i in range(8)]
    assert buckets(True, [-bound for bound in bounds]) == [8 + i for i in range(8)]
    assert buckets(True, [1 - bound for bound in bounds[1:]]) == [8 + i for i in range(7)]
    assert buckets(True, [-128, -1000, 128, 1000]) == [15, 15, 31, 31]


def test_a_decoder_does_not_tell_the_future_apart():
    assert buckets(False, [5, 1, 0]) == [0, 0, 0]
    assert buckets(False, range(0, -16, -1)) == list(range(16))
    assert buckets(False, [-128, -1000]) == [31, 31]


def test_relative_bias_of_a_cached_piece():
    layer = RelativePositionBias(3)
    whole = battery.numpy(layer(np.zeros((1, 9, 4), "float32")))
    piece = np.zeros((1, 2, 4), "float32")
    in_graph = battery.compiled(lambda index: layer(piece, key_length=9, start_index=index))
    index = keras.ops.convert_to_tensor(4)
    battery.assert_close(battery.numpy(in_graph(index)), whole[:, :, 4:6])

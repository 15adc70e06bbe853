import math

import battery
import keras
import numpy as np
import pytest

from keras_llm.layers import PositionEmbedding, SinePositionEncoding


def test_batteries(tmp_path):
    x = {"x": np.zeros((2, 5, 6), "float32")}
    battery.check_layer(lambda **kw: SinePositionEncoding(name="sine", **kw), x, tmp_path)
    battery.check_layer(lambda **kw: PositionEmbedding(7, name="learned", **kw), x, tmp_path)


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


@pytest.mark.parametrize("layer", [SinePositionEncoding(), PositionEmbedding(9)], ids=type)
def test_start_index_continues(layer):
    whole = battery.numpy(layer(np.zeros((2, 9, 4), "float32")))
    piece = np.zeros((2, 3, 4), "float32")
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


def test_sequence_longer_than_positions():
    layer = PositionEmbedding(8)
    for length, start in [(9, 0), (3, 6)]:
        with pytest.raises(ValueError, match=r"reaches position 9.*max_sequence_length=8"):
            layer(np.zeros((1, length, 4), "float32"), start_index=start)
    with pytest.raises(ValueError, match="positive integer"):
        PositionEmbedding(None)

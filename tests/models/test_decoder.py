"""What all decoders promise, GPT-2 and Llama alike."""

import json

import battery
import keras
import keras_hub
import numpy as np
import pytest

from keras_llm.models import GPT2Backbone, LlamaBackbone

SIZES = {"vocabulary_size": 30, "num_layers": 2, "hidden_dim": 12, "intermediate_dim": 20}
DECODERS = {
    "gpt2": (GPT2Backbone, {"num_heads": 3, "max_sequence_length": 10}),
    "llama": (LlamaBackbone, {"num_query_heads": 6, "num_key_value_heads": 3}),
}

pytestmark = pytest.mark.parametrize("name", DECODERS)


def with_random_weights(name, seed=0, **options):
    """Untrained, attention is all but uniform; these weights make every position count."""
    cls, heads = DECODERS[name]
    model, rng = cls(**SIZES | heads | options), np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape) * 0.5 for w in model.get_weights()])
    return model


def inputs(batch=3, length=8):
    rng = np.random.default_rng(0)
    return {
        "token_ids": rng.integers(0, 30, (batch, length), dtype="int32"),
        "padding_mask": np.arange(length) < rng.integers(4, length + 1, (batch, 1)),
    }


def test_padding_changes_nothing(name):
    model, x = with_random_weights(name), inputs()
    together = battery.numpy(model(x))
    for row, length in enumerate(x["padding_mask"].sum(axis=1)):
        alone = battery.numpy(model({k: v[row : row + 1, :length] for k, v in x.items()}))
        battery.assert_close(together[row, :length], alone[0], 1e-5)


def test_padding_on_the_left_changes_nothing_but_the_positions(name):
    model = with_random_weights(name, dropout=0.0)
    x = {"token_ids": inputs()["token_ids"], "padding_mask": np.arange(8) >= [[0], [3], [5]]}
    before = battery.numpy(model(x))
    x["token_ids"] = np.where(x["padding_mask"], x["token_ids"], 9)
    battery.assert_close(battery.numpy(model(x))[x["padding_mask"]], before[x["padding_mask"]])


def test_the_future_changes_nothing(name):
    model, x = with_random_weights(name), inputs()
    x["padding_mask"][:] = True
    before = battery.numpy(model(x))
    x["token_ids"][:, 4:] = (x["token_ids"][:, 4:] + 1) % 30
    after = battery.numpy(model(x))
    battery.assert_close(after[:, :4], before[:, :4], 1e-6)
    assert (np.abs(after[:, 4:] - before[:, 4:]).max(axis=-1) > 1e-3).all()
    # But the past does: token 0 counts at every later position.
    x["token_ids"][:, 0] = (x["token_ids"][:, 0] + 1) % 30
    assert (np.abs(battery.numpy(model(x)) - after).max(axis=-1) > 1e-4).all()


def test_other_documents_change_nothing(name):
    model, x = with_random_weights(name), inputs()
    x["padding_mask"][:] = True
    x["segment_ids"] = np.array([[0, 0, 0, 1, 1, 1, 1, 2]] * 3, "int32")
    before = battery.numpy(model(x))
    assert (
        np.abs(before - battery.numpy(model({**x, "segment_ids": 0 * x["segment_ids"]}))).max()
        > 0.1
    )
    for document in range(3):
        others = x["segment_ids"] != document
        changed = {**x, "token_ids": np.where(others, 29 - x["token_ids"], x["token_ids"])}
        after = battery.numpy(model(changed))
        battery.assert_close(after[~others], before[~others], 1e-6)


def test_documents_of_a_row_as_if_in_rows_of_their_own_in_a_graph(name):
    model, x = with_random_weights(name), inputs()
    x["padding_mask"][:] = True
    x["segment_ids"] = np.array([[0, 0, 0, 1, 1, 1, 1, 2], [4] * 8, [0, 1, 2, 2, 2, 2, 3, 3]])
    together = battery.numpy(battery.compiled(lambda x: model(x))(x))
    rows, masks = [], []
    for ids, segments in zip(x["token_ids"], x["segment_ids"], strict=True):
        for document in np.unique(segments):
            length = (segments == document).sum()
            rows.append(np.pad(ids[segments == document], (0, 8 - length)))
            masks.append(np.arange(8) < length)
    alone = {"token_ids": np.array(rows), "padding_mask": np.array(masks)}
    battery.assert_close(together.reshape(-1, 12), battery.numpy(model(alone))[masks], 1e-5)


def test_rows_without_documents_are_one_document(name):
    model, x = with_random_weights(name), inputs()
    one = {**x, "segment_ids": np.full((3, 8), 5, "int32")}
    battery.assert_close(battery.numpy(model(one)), battery.numpy(model(x)), 1e-6)


@pytest.mark.parametrize("pieces", [(1,) * 8, (2, 5, 1)], ids=str)
def test_cached_equals_uncached(name, pieces):
    model, x = with_random_weights(name), inputs()
    x["padding_mask"][:] = True
    cache, outputs, index = model.start_cache(3, max_length=9), [], 0
    for length in pieces:
        output, cache = model.decode_step(x["token_ids"][:, index : index + length], index, cache)
        outputs.append(battery.numpy(output))
        index += length
    battery.assert_close(np.concatenate(outputs, axis=1), battery.numpy(model(x)), 1e-5)


def test_padding_mask_of_zeros_and_ones_as_keras_hub_makes_it(name):
    model, x = with_random_weights(name), inputs()
    as_integers = x | {"padding_mask": x["padding_mask"].astype("int32")}
    battery.assert_close(battery.numpy(model(as_integers)), battery.numpy(model(x)))


def test_in_a_graph_and_symbolically(name):
    model, x = with_random_weights(name), inputs()
    x["segment_ids"] = np.array([[0, 0, 0, 1, 1, 1, 1, 2]] * 3, "int32")
    graph = battery.compiled(lambda x: model(x))
    battery.assert_close(battery.numpy(graph(x)), battery.numpy(model(x)), 1e-5)
    del x["segment_ids"]
    battery.assert_close(battery.numpy(graph(x)), battery.numpy(model(x)), 1e-5)
    around = keras.Model(model.input, model(model.input) * 2)
    battery.assert_close(battery.numpy(around(x)), 2 * battery.numpy(model(x)), 1e-5)


def test_round_trip(name, tmp_path):
    model, x = with_random_weights(name, dropout=0.25), inputs()
    config = json.loads(json.dumps(model.get_config()))
    assert config.items() >= {**SIZES, **DECODERS[name][1], "dropout": 0.25}.items()
    assert json.loads(json.dumps(type(model).from_config(config).get_config())) == config
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    battery.assert_close(battery.numpy(loaded(x)), battery.numpy(model(x)))


def test_precisions_agree(name):
    model, x = with_random_weights(name), inputs()
    expected = battery.numpy(model(x))[x["padding_mask"]]
    for dtype, tolerance in battery.PRECISIONS.items():
        cls, heads = DECODERS[name]
        other = cls(**SIZES | heads, dtype=dtype)
        other.set_weights(model.get_weights())
        assert other.start_cache(1, 2)[0].dtype == other.compute_dtype
        actual = battery.numpy(other(x))[x["padding_mask"]]
        battery.assert_close(actual, expected, 3 * tolerance)


@pytest.mark.parametrize("size", [0, 1.5])
def test_wrong_sizes(name, size):
    cls, heads = DECODERS[name]
    sizes = SIZES | heads
    for argument in sizes:
        with pytest.raises(ValueError, match=f"{argument} must be a positive integer. Got {size}"):
            cls(**{**sizes, argument: size})


def test_same_inputs_and_output_as_keras_hub(name):
    cls, heads = DECODERS[name]
    ours, theirs = cls(**SIZES | heads), getattr(keras_hub.models, cls.__name__)(**SIZES | heads)
    assert ours.input.keys() == theirs.input.keys()
    assert ours.output.shape == theirs.output.shape
    assert ours.count_params() == theirs.count_params()

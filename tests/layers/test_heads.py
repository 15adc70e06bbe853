import battery
import keras
import numpy as np
import numpy_reference as reference
import pytest

from keras_llm.layers import MaskedLMHead, NextSentenceHead


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def normal(rng, *shape):
    return rng.normal(size=shape).astype("float32")


def make_head(dtype=None):
    embedding = keras.layers.ReversibleEmbedding(11, 6, dtype=dtype, name="token_embedding")
    embedding.build()
    return MaskedLMHead(embedding, dtype=dtype, name="head")


def test_batteries(rng, tmp_path):
    arguments = {
        "x": normal(rng, 2, 5, 6),
        "mask_positions": np.array([[1, 3, 0], [4, 2, 2]], dtype="int32"),
    }
    battery.check_layer(make_head, arguments, tmp_path)
    battery.check_layer(
        lambda **kw: NextSentenceHead(name="head", **kw), {"x": normal(rng, 3, 6)}, tmp_path
    )


def test_masked_lm_equals_the_formula_at_its_positions(rng):
    head, x = make_head(), normal(rng, 2, 5, 6)
    positions = np.array([[1, 3, 0], [4, 2, 2]])
    head(x, positions)
    head.set_weights([normal(rng, *w.shape) for w in head.get_weights()])
    weights = {w.path: np.float64(w.numpy()) for w in head.weights}
    table = next(w for path, w in weights.items() if path.endswith("embeddings"))
    actual = battery.numpy(head(x, positions))
    for i, row in enumerate(positions):
        hidden = x[i, row] @ weights["head/dense/kernel"] + weights["head/dense/bias"]
        hidden = reference.layer_norm(
            reference.gelu(hidden),
            weights["head/layer_norm/gamma"],
            weights["head/layer_norm/beta"],
            1e-5,
        )
        battery.assert_close(actual[i], hidden @ table.T + weights["head/bias"], 1e-4)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_logits_are_float32(rng, dtype):
    head = make_head(dtype)
    logits = head(normal(rng, 2, 5, 6), np.array([[1], [2]]))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    symbolic = head(keras.Input((5, 6), dtype=head.compute_dtype), keras.Input((1,), dtype="int32"))
    assert symbolic.dtype == "float32"
    logits = NextSentenceHead(dtype=dtype)(normal(rng, 2, 6))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"


def test_a_model_that_shares_the_embedding_is_saved_with_one_table(rng, tmp_path):
    token_ids = keras.Input((None,), dtype="int32")
    mask_positions = keras.Input((None,), dtype="int32")
    embedding = keras.layers.ReversibleEmbedding(11, 6)
    logits = MaskedLMHead(embedding)(embedding(token_ids), mask_positions)
    model = keras.Model([token_ids, mask_positions], logits)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")

    inputs = [rng.integers(0, 11, (2, 5)), np.array([[1, 3], [0, 2]])]
    before = loaded.predict(inputs, verbose=0)
    battery.assert_close(before, model.predict(inputs, verbose=0))
    assert len(loaded.weights) == len(model.weights) == 6
    embedding = next(layer for layer in loaded.layers if hasattr(layer, "tie_weights"))
    embedding.set_weights([2 * embedding.get_weights()[0]])
    assert np.abs(loaded.predict(inputs, verbose=0) - before).max() > 1e-3

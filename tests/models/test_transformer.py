import json

import battery
import keras
import numpy as np
import pytest

from keras_llm.models import Transformer

SIZES = {
    "num_layers": 2,
    "hidden_dim": 12,
    "num_heads": 3,
    "intermediate_dim": 20,
    "vocabulary_size": 30,
}


def inputs(batch=3, source=7, target=6):
    rng = np.random.default_rng(0)
    return {
        "encoder_token_ids": rng.integers(0, 30, (batch, source), dtype="int32"),
        "encoder_padding_mask": np.arange(source) < [[source], [4], [1]],
        "decoder_token_ids": rng.integers(0, 30, (batch, target), dtype="int32"),
        "decoder_padding_mask": np.arange(target) < [[3], [target], [1]],
    }


def model_with_random_weights(**overrides):
    model, rng = Transformer(**{**SIZES, **overrides}), np.random.default_rng(1)
    model.set_weights([w + 0.3 * rng.normal(size=w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("norm_first", [False, True])
def test_equals_pytorch(norm_first):
    torch = pytest.importorskip("torch")
    import torch_weights

    ours, x = model_with_random_weights(norm_first=norm_first), inputs()
    theirs = torch.nn.Transformer(
        12, 3, 2, 2, 20, activation="relu", norm_first=norm_first, batch_first=True
    ).eval()
    for layer, block in zip(theirs.encoder.layers, ours.encoder_layers, strict=True):
        torch_weights.encoder_layer(layer, block)
    for layer, block in zip(theirs.decoder.layers, ours.decoder_layers, strict=True):
        torch_weights.decoder_layer(layer, block)
    if norm_first:
        torch_weights.layer_norm(theirs.encoder.norm, ours.encoder_norm)
        torch_weights.layer_norm(theirs.decoder.norm, ours.decoder_norm)
    else:  # PyTorch normalises once more at the end; the paper does not
        theirs.encoder.norm = theirs.decoder.norm = None

    # The embeddings and sine positions, which PyTorch leaves to its user.
    table = ours.token_embedding.embeddings.numpy()
    rates = 10000.0 ** (-2 * (np.arange(12) // 2) / 12)
    angles = np.arange(7)[:, None] * rates
    waves = np.where(np.arange(12) % 2, np.cos(angles), np.sin(angles))

    def embed(ids):
        return torch.tensor(table[ids] * np.sqrt(12) + waves[: ids.shape[1]], dtype=torch.float32)

    hidden = {name: torch.tensor(~x[f"{name}_padding_mask"]) for name in ("encoder", "decoder")}
    with torch.no_grad():
        expected = theirs(
            embed(x["encoder_token_ids"]),
            embed(x["decoder_token_ids"]),
            tgt_mask=torch.triu(torch.ones(6, 6, dtype=torch.bool), 1),
            src_key_padding_mask=hidden["encoder"],
            tgt_key_padding_mask=hidden["decoder"],
            memory_key_padding_mask=hidden["encoder"],
        ).numpy()
    actual = battery.numpy(ours(x))["decoder_sequence_output"]
    battery.assert_close(actual, expected, 1e-5)


@pytest.mark.parametrize(("name", "millions"), [("base", 65), ("big", 213)])  # table 3
def test_published_sizes(name, millions):
    with keras.StatelessScope(initialize_variables=False):  # shapes only
        count = getattr(Transformer, name)(vocabulary_size=37_000).count_params()
    keras.utils.clear_session()
    assert count == pytest.approx(millions * 1e6, rel=0.03)


def test_one_table_serves_source_target_and_output():
    model, x = model_with_random_weights(), inputs()
    assert sum(w.shape == (30, 12) for w in model.weights) == 1
    vectors = battery.numpy(model(x))["decoder_sequence_output"]
    expected = vectors @ model.token_embedding.embeddings.numpy().T
    battery.assert_close(battery.numpy(model.logits(vectors)), expected, 1e-5)


def test_the_future_cannot_change_the_past():
    model, x = model_with_random_weights(), inputs()
    before = battery.numpy(model(x))["decoder_sequence_output"]
    x["decoder_token_ids"][:, 4:] = (x["decoder_token_ids"][:, 4:] + 1) % 30
    after = battery.numpy(model(x))["decoder_sequence_output"]
    battery.assert_close(after[:, :4], before[:, :4], 1e-6)
    assert np.abs(after[1, 4:] - before[1, 4:]).max() > 0.1


def test_padding_changes_nothing():
    model, x = model_with_random_weights(), inputs()
    together = battery.numpy(model(x))
    for row in range(3):
        source = x["encoder_padding_mask"][row].sum()
        target = x["decoder_padding_mask"][row].sum()
        alone = battery.numpy(
            model(
                {
                    name: array[row : row + 1, : source if "encoder" in name else target]
                    for name, array in x.items()
                }
            )
        )
        for name, length in (("encoder", source), ("decoder", target)):
            output = f"{name}_sequence_output"
            battery.assert_close(together[output][row, :length], alone[output][0], 1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("pieces", [(1,) * 6, (2, 3, 1)], ids=str)
def test_cached_equals_uncached(norm_first, pieces):
    model, x = model_with_random_weights(norm_first=norm_first), inputs()
    mask = x["encoder_padding_mask"]
    encoded = model.encode(x["encoder_token_ids"], mask)
    expected, _ = model.decode(x["decoder_token_ids"], encoded, encoder_padding_mask=mask)
    cache, source = model.start_cache(3, max_length=9), model.keys_and_values(encoded)
    outputs, index = [], 0
    for length in pieces:
        tokens = x["decoder_token_ids"][:, index : index + length]
        output, cache = model.decode_step(tokens, index, cache, source, mask)
        outputs.append(battery.numpy(output))
        index += length
    battery.assert_close(np.concatenate(outputs, axis=1), battery.numpy(expected), 1e-5)


def test_alignments_are_shares_of_the_source():
    model, x = model_with_random_weights(), inputs()
    encoded = model.encode(x["encoder_token_ids"], x["encoder_padding_mask"])
    _, alignments = battery.numpy(
        model.decode(
            x["decoder_token_ids"], encoded, encoder_padding_mask=x["encoder_padding_mask"]
        )
    )
    assert [scores.shape for scores in alignments] == [(3, 3, 6, 7)] * 2
    battery.assert_close(alignments[0].sum(-1), np.ones((3, 3, 6)), 1e-5)
    assert not alignments[1][2, :, :, 1:].any()


def test_round_trip(tmp_path):
    model, x = model_with_random_weights(norm_first=True, activation="gelu"), inputs()
    config = json.loads(json.dumps(model.get_config()))
    assert json.loads(json.dumps(Transformer.from_config(config).get_config())) == config
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    battery.assert_close(battery.numpy(loaded(x)), battery.numpy(model(x)))


def test_precisions_agree():
    model, x = model_with_random_weights(), inputs()
    expected = battery.numpy(model(x))
    for dtype, tolerance in battery.PRECISIONS.items():
        other = Transformer(**SIZES, dtype=dtype)
        other.set_weights(model.get_weights())
        battery.assert_close(battery.numpy(other(x)), expected, 3 * tolerance)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("size", [0, 1.5])
def test_wrong_sizes(name, size):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer. Got {size}"):
        Transformer(**{**SIZES, name: size})


def test_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="hidden_dim=12, num_heads=5"):
        Transformer(**{**SIZES, "num_heads": 5})

import inspect
import io
import zipfile

import battery
import h5py
import keras
import keras_hub
import numpy as np
import pytest

from keras_llm.models import BertBackbone, BertForPretraining

SIZES = {
    "vocabulary_size": 30,
    "num_layers": 1,
    "num_heads": 3,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 10,
}


def examples(batch=3, length=8, predictions=4):
    """A batch as the objectives make it: inputs, targets and weights."""
    rng = np.random.default_rng(0)
    x = {
        "token_ids": rng.integers(0, 30, (batch, length), dtype="int32"),
        "segment_ids": rng.integers(0, 2, (batch, length), dtype="int32"),
        "padding_mask": np.arange(length) < rng.integers(4, length + 1, (batch, 1)),
        "mask_positions": rng.integers(0, 4, (batch, predictions), dtype="int32"),
    }
    y = {
        "masked_lm": rng.integers(0, 30, (batch, predictions), dtype="int32"),
        "next_sentence": rng.integers(0, 2, (batch,), dtype="int32"),
    }
    return x, y


def backbone_inputs(x):
    return {name: x[name] for name in ("token_ids", "segment_ids", "padding_mask")}


def compiled(model, optimizer="sgd"):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss={"masked_lm": loss, "next_sentence": loss})
    return model


def train(model, x, y, steps=1):
    """Takes compiled steps on one batch; returns the losses."""
    # Keras' own method: KerasHub's takes no dict of targets.
    return [float(keras.Model.train_on_batch(model, x, y)[0]) for _ in range(steps)]


# KerasHub's `fit` and `predict` make a dataset, which needs `grain` where TensorFlow is missing.
needs_dataset = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs tf.data")


# === BertBackbone ===


def test_same_signature_and_shapes_as_keras_hub():
    ours = inspect.signature(BertBackbone.__init__)
    theirs = inspect.signature(keras_hub.models.BertBackbone.__init__)
    assert list(ours.parameters.values()) == list(theirs.parameters.values())
    ours, theirs = BertBackbone(**SIZES), keras_hub.models.BertBackbone(**SIZES)
    assert ours.count_params() == theirs.count_params()
    assert {k: v.shape for k, v in ours.output.items()} == {
        k: v.shape for k, v in theirs.output.items()
    }
    assert ours.input.keys() == theirs.input.keys()


@pytest.mark.parametrize(
    ("name", "millions"),  # as the papers give them
    [
        ("tiny", 4.4),
        ("mini", 11.3),
        ("small", 29.1),
        ("medium", 41.7),
        ("base", 110),
        ("large", 340),
    ],
)
def test_published_sizes(name, millions):
    with keras.StatelessScope(initialize_variables=False):  # shapes only: large is 1.3 GB
        backbone = getattr(BertBackbone, name)(vocabulary_size=30522)
        count = backbone.count_params()
    keras.utils.clear_session()  # or Keras would initialize the variables later on
    assert count == pytest.approx(millions * 1e6, rel=0.02)

    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30522,
        hidden_size=backbone.hidden_dim,
        num_hidden_layers=backbone.num_layers,
        num_attention_heads=backbone.num_heads,
        intermediate_size=backbone.intermediate_dim,
    )
    with torch.device("meta"):
        assert count == transformers.BertModel(config).num_parameters()


def test_sizes_can_be_overridden():
    backbone = BertBackbone.tiny(30, num_layers=1, max_sequence_length=10, dtype="mixed_bfloat16")
    assert (backbone.num_layers, backbone.hidden_dim, backbone.num_heads) == (1, 128, 2)
    assert backbone.max_sequence_length == 10
    assert backbone.dtype_policy.name == "mixed_bfloat16"


def test_padding_changes_nothing():
    backbone, (x, _) = BertBackbone(**SIZES), examples(length=6)
    x = backbone_inputs(x) | {"padding_mask": np.ones((3, 6), bool)}
    padded = {name: np.pad(array, ((0, 0), (0, 3))) for name, array in x.items()}
    padded["token_ids"][:, 6:] = 7
    short, long = battery.numpy((backbone(x), backbone(padded)))
    battery.assert_close(long["sequence_output"][:, :6], short["sequence_output"], 1e-5)
    battery.assert_close(long["pooled_output"], short["pooled_output"], 1e-5)


def test_every_input_counts():
    backbone, (x, _) = BertBackbone(**SIZES), examples()
    x = backbone_inputs(x)
    before = battery.numpy(backbone(x))["sequence_output"][:, 0]
    changes = {
        "token_ids": (x["token_ids"] + 1) % 30,
        "segment_ids": 1 - x["segment_ids"],
        "padding_mask": np.arange(8) < 2 + np.zeros((3, 1)),
    }
    for name, array in changes.items():
        after = battery.numpy(backbone(x | {name: array}))["sequence_output"][:, 0]
        assert np.abs(after - before).max() > 1e-4, name


def test_padding_mask_of_zeros_and_ones_as_keras_hub_makes_it():
    backbone, (x, _) = BertBackbone(**SIZES), examples()
    x = backbone_inputs(x)
    as_integers = x | {"padding_mask": x["padding_mask"].astype("int32")}
    battery.assert_close(battery.numpy(backbone(as_integers)), battery.numpy(backbone(x)))


def test_backbone_round_trip(tmp_path):
    backbone, (x, _) = BertBackbone(**SIZES, dropout=0.2, num_segments=3), examples()
    copy = BertBackbone.from_config(backbone.get_config())
    assert copy.get_config() == backbone.get_config()
    assert copy.get_config().items() >= {**SIZES, "dropout": 0.2, "num_segments": 3}.items()
    backbone.save(tmp_path / "backbone.keras")
    loaded = keras.models.load_model(tmp_path / "backbone.keras")
    assert type(loaded) is BertBackbone
    x = backbone_inputs(x)
    battery.assert_close(battery.numpy(loaded(x)), battery.numpy(backbone(x)))


@needs_dataset
def test_sequence_longer_than_positions():
    model, (x, y) = compiled(BertForPretraining(BertBackbone(**SIZES))), examples(length=11)
    message = r"reaches position 11.*max_sequence_length=10"
    with pytest.raises(ValueError, match=message):
        model.backbone(backbone_inputs(x))
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match=message):
        model.predict(x, verbose=0)


@pytest.mark.parametrize("name", [*SIZES, "num_segments"])
@pytest.mark.parametrize("size", [0, -1, 1.5, None])
def test_wrong_sizes(name, size):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer. Got {size}"):
        BertBackbone(**{**SIZES, "num_segments": 2, name: size})


def test_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="hidden_dim=12, num_heads=5"):
        BertBackbone(**{**SIZES, "num_heads": 5})


# === BertForPretraining ===


@pytest.mark.parametrize("dtype", battery.PRECISIONS)
def test_trains_and_round_trips_in_every_precision(tmp_path, dtype):
    keras.utils.set_random_seed(0)
    model, (x, y) = BertForPretraining(BertBackbone(**SIZES, dropout=0.0, dtype=dtype)), examples()
    compiled(model, keras.optimizers.SGD(1e-2, momentum=0.9))
    losses = train(model, x, y, steps=5)
    assert np.isfinite(losses).all() and losses[-1] < losses[0]

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is BertForPretraining
    battery.assert_close(battery.numpy(loaded(x)), battery.numpy(model(x)))
    # With the optimizer's state, training goes on as if nothing had happened.
    assert int(loaded.optimizer.iterations) == 5
    train(model, x, y)
    train(loaded, x, y)
    battery.assert_close(loaded.get_weights(), model.get_weights(), 1e-7)


def test_precisions_agree():
    model, (x, _) = BertForPretraining(BertBackbone(**SIZES)), examples()
    expected = battery.numpy(model(x))
    for dtype, tolerance in battery.PRECISIONS.items():
        other = BertForPretraining(BertBackbone(**SIZES, dtype=dtype))
        other.set_weights(model.get_weights())
        logits = other(x)
        for head in ("masked_lm", "next_sentence"):
            assert keras.backend.standardize_dtype(logits[head].dtype) == "float32"
            battery.assert_close(battery.numpy(logits[head]), expected[head], tolerance)


def test_a_file_holds_each_weight_once(tmp_path):
    model = BertForPretraining(BertBackbone(**SIZES), compile=False)
    model.save(tmp_path / "model.keras")
    sizes = {}
    weights = io.BytesIO(zipfile.ZipFile(tmp_path / "model.keras").read("model.weights.h5"))
    with h5py.File(weights) as file:
        file.visititems(lambda name, item: sizes.update({name: getattr(item, "size", 0)}))
    stored = sum(size for name, size in sizes.items() if "seed_generator" not in name)
    assert stored == model.count_params()


def test_token_embedding_is_tied():
    model, (x, _) = BertForPretraining(BertBackbone(**SIZES)), examples()
    assert model.masked_lm_head.token_embedding is model.backbone.token_embedding
    assert sum(w.shape == (30, 12) for w in model.weights) == 1
    outputs = battery.numpy(model(x))
    model.masked_lm_head.bias.assign(np.arange(30.0))
    changed = battery.numpy(model(x))
    battery.assert_close(
        changed["masked_lm"], outputs["masked_lm"] + np.arange(30.0, dtype="float32"), 1e-5
    )


def test_predictions_are_those_of_their_positions():
    model, (x, _) = BertForPretraining(BertBackbone(**SIZES)), examples()
    everywhere = x | {"mask_positions": np.tile(np.arange(8, dtype="int32"), (3, 1))}
    logits = battery.numpy(model(everywhere))["masked_lm"]
    expected = np.take_along_axis(logits, x["mask_positions"][:, :, None], axis=1)
    battery.assert_close(battery.numpy(model(x))["masked_lm"], expected, 1e-5)


def test_a_model_without_dropout_overfits_one_batch():
    keras.utils.set_random_seed(0)
    model, (x, y) = BertForPretraining(BertBackbone(**SIZES, dropout=0.0)), examples()
    x["mask_positions"] = np.tile(np.arange(4, dtype="int32"), (3, 1))  # one target a position
    train(compiled(model, keras.optimizers.Adam(1e-2)), x, y, steps=60)
    logits = battery.numpy(model(x))
    assert (logits["masked_lm"].argmax(-1) == y["masked_lm"]).mean() > 0.9
    assert (logits["next_sentence"].argmax(-1) == y["next_sentence"]).all()


@needs_dataset
def test_works_on_keras_hubs_backbone(tmp_path):
    model, (x, y) = BertForPretraining(keras_hub.models.BertBackbone(**SIZES)), examples()
    compiled(model).fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    battery.assert_close(battery.numpy(loaded(x)), battery.numpy(model(x)))


def test_stands_for_keras_hubs_backbone():
    (x, _), backbone = examples(), BertBackbone(**SIZES)
    classifier = keras_hub.models.BertTextClassifier(backbone, num_classes=3, preprocessor=None)
    assert classifier(backbone_inputs(x)).shape == (3, 3)

"""What BERT's relatives have in common; their numbers are compared in tests/checkpoints."""

import inspect

import battery
import keras
import keras_hub
import numpy as np
import pytest

from keras_llm.models import (
    DistilBertBackbone,
    DistilBertMaskedLM,
    ElectraBackbone,
    ElectraDiscriminator,
    ElectraGenerator,
    RobertaBackbone,
    RobertaMaskedLM,
)
from keras_llm.models.encoder import EncoderMaskedLM

SIZES = {
    "vocabulary_size": 30,
    "num_layers": 1,
    "num_heads": 3,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 10,
}
MAKE = {
    RobertaBackbone: SIZES,
    DistilBertBackbone: SIZES,
    ElectraBackbone: SIZES | {"embedding_dim": 8},
}
MASKED_LM = {
    RobertaBackbone: RobertaMaskedLM,
    DistilBertBackbone: DistilBertMaskedLM,
    ElectraBackbone: ElectraGenerator,
}
needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.data")
each_backbone = pytest.mark.parametrize("cls", MAKE)


def examples(backbone, length=8):
    rng = np.random.default_rng(0)
    x = {
        "token_ids": rng.integers(0, 30, (3, length), dtype="int32"),
        "segment_ids": rng.integers(0, 2, (3, length), dtype="int32"),
        "padding_mask": np.arange(length) < rng.integers(4, length + 1, (3, 1)),
    }
    x = {name: x[name] for name in backbone.input}
    positions = np.tile(np.arange(4, dtype="int32"), (3, 1))
    return x, positions, rng.integers(0, 30, (3, 4), dtype="int32")


@each_backbone
def test_arguments_and_inputs_of_keras_hub(cls):
    theirs = getattr(keras_hub.models, cls.__name__)
    own = set(inspect.signature(cls.__init__).parameters)
    names = {"vocab_size": "vocabulary_size"}
    expected = {names.get(n, n) for n in inspect.signature(theirs.__init__).parameters}
    assert own - expected <= {"layer_norm_epsilon"} and expected <= own
    sizes = dict(MAKE[cls])
    if cls is ElectraBackbone:
        sizes["vocab_size"] = sizes.pop("vocabulary_size")
    assert theirs(**sizes).input.keys() == cls(**MAKE[cls]).input.keys()


@pytest.mark.parametrize(
    ("make", "millions"),  # as the papers, or where they round much, the authors' pages give them
    [
        (RobertaBackbone.base, 125),
        (RobertaBackbone.large, 355),
        (DistilBertBackbone.base, 66),
        (ElectraBackbone.small, 14),
        (ElectraBackbone.base, 110),
        (ElectraBackbone.large, 335),
    ],
    ids=lambda value: getattr(value, "__qualname__", None),
)
def test_published_sizes(make, millions):
    with keras.StatelessScope(initialize_variables=False):  # shapes only
        count = make().count_params()
    keras.utils.clear_session()  # or Keras would initialize the variables later on
    assert count == pytest.approx(millions * 1e6, rel=0.04)


@each_backbone
def test_padding_on_the_right_changes_nothing(cls):
    backbone = cls(**MAKE[cls])
    x, _, _ = examples(backbone, length=6)
    x["padding_mask"][:] = True
    padded = {name: np.pad(array, ((0, 0), (0, 3))) for name, array in x.items()}
    padded["token_ids"][:, 6:] = 7
    short, long = battery.numpy((backbone(x), backbone(padded)))
    battery.assert_close(long[:, :6], short, 1e-5)


def test_padding_on_either_side_is_the_same_in_roberta():
    backbone = RobertaBackbone(**SIZES)
    x, _, _ = examples(backbone, length=6)
    x["padding_mask"][:] = True
    right = {name: np.pad(array, ((0, 0), (0, 3))) for name, array in x.items()}
    left = {name: np.pad(array, ((0, 0), (3, 0))) for name, array in x.items()}
    battery.assert_close(
        battery.numpy(backbone(left))[:, 3:], battery.numpy(backbone(right))[:, :6], 1e-5
    )


@each_backbone
def test_every_input_counts(cls):
    backbone = cls(**MAKE[cls])
    x, _, _ = examples(backbone)
    before = battery.numpy(backbone(x))[:, 0]
    changes = {
        "token_ids": (x["token_ids"] + 1) % 30,
        "segment_ids": 1 - x.get("segment_ids", 0),
        "padding_mask": np.arange(8) < 2 + np.zeros((3, 1)),
    }
    for name in x:
        after = battery.numpy(backbone(x | {name: changes[name]}))[:, 0]
        assert np.abs(after - before).max() > 1e-4, name


@each_backbone
def test_round_trip(tmp_path, cls):
    options = {"layer_norm_epsilon": 1e-3} if cls is RobertaBackbone else {}
    backbone = cls(**MAKE[cls], dropout=0.2, **options)
    assert backbone.get_config().items() >= {**MAKE[cls], "dropout": 0.2, **options}.items()
    assert cls.from_config(backbone.get_config()).get_config() == backbone.get_config()
    backbone.save(tmp_path / "backbone.keras")
    loaded = keras.models.load_model(tmp_path / "backbone.keras")
    assert type(loaded) is cls
    x, _, _ = examples(backbone)
    battery.assert_close(battery.numpy(loaded(x)), battery.numpy(backbone(x)))


@each_backbone
def test_sequence_longer_than_positions(cls):
    backbone = cls(**MAKE[cls])
    with pytest.raises(ValueError, match=r"11.* max_sequence_length=10"):
        backbone(examples(backbone, length=11)[0])


@pytest.mark.parametrize(
    ("cls", "name"), [(cls, name) for cls, sizes in MAKE.items() for name in sizes]
)
def test_wrong_sizes(cls, name):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer. Got 0"):
        cls(**{**MAKE[cls], name: 0})


@needs_tensorflow
@pytest.mark.parametrize("dtype", battery.PRECISIONS)
@each_backbone
def test_guessing_masked_tokens_is_learned_and_saved(tmp_path, cls, dtype):
    keras.utils.set_random_seed(0)
    model = MASKED_LM[cls](cls(**MAKE[cls], dropout=0.0, dtype=dtype))
    assert isinstance(model, EncoderMaskedLM)
    x, positions, y = examples(model.backbone)
    x["mask_positions"] = positions
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(x, y, epochs=80, batch_size=3, verbose=0)
    logits = battery.numpy(model(x))
    assert logits.dtype == "float32" and logits.shape == (3, 4, 30)
    assert (logits.argmax(-1) == y).mean() > 0.9

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    battery.assert_close(battery.numpy(loaded(x)), logits)


def test_unused_slots_do_not_count_in_the_default_loss():
    model = RobertaMaskedLM(RobertaBackbone(**SIZES))
    x, positions, y = examples(model.backbone)
    weights = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], "float32")
    x["mask_positions"] = positions
    loss, accuracy = keras.Model.test_on_batch(model, x, y, sample_weight=weights)
    logits = battery.numpy(model(x)).astype("float64")
    nll = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, y[..., None], -1)[..., 0]
    assert loss == pytest.approx((nll * weights).sum() / 3, rel=1e-5)
    assert accuracy == pytest.approx(((logits.argmax(-1) == y) * weights).sum() / 3)


@pytest.mark.parametrize("name", ["RobertaBackbone", "DistilBertBackbone"])
def test_masked_lm_on_backbones_of_keras_hub(name):
    backbone = getattr(keras_hub.models, name)(**SIZES)
    model = MASKED_LM[RobertaBackbone if name == "RobertaBackbone" else DistilBertBackbone](
        backbone
    )
    x, positions, _ = examples(backbone)
    assert model(x | {"mask_positions": positions}).shape == (3, 4, 30)


def test_token_embedding_is_tied():
    for cls, sizes in MAKE.items():
        model = MASKED_LM[cls](cls(**sizes))
        assert sum(w.shape[0] == 30 and len(w.shape) == 2 for w in model.weights) == 1


def test_discriminator_round_trip(tmp_path):
    model = ElectraDiscriminator(ElectraBackbone(**MAKE[ElectraBackbone]), compile=False)
    x, _, _ = examples(model.backbone)
    logits = battery.numpy(model(x))
    assert logits.shape == (3, 8) and logits.dtype == "float32"
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    battery.assert_close(battery.numpy(loaded(x)), logits)

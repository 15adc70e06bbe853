import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from keras_llm import models, training
from keras_llm.training import AdamW, GlobalMeanCrossentropy, TrainingMixin

SIZES = {"num_layers": 3, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}


def bert(**overrides):
    return models.BertBackbone(20, **(SIZES | overrides), max_sequence_length=8)


@pytest.fixture(scope="module")
def encoder():
    """For what fails before it changes anything."""
    return bert()


BACKBONES = {
    "BERT": bert,
    "BERT of KerasHub": lambda: keras_hub.models.BertBackbone(20, **SIZES, max_sequence_length=8),
    "RoBERTa of KerasHub": lambda: keras_hub.models.RobertaBackbone(
        20, **SIZES, max_sequence_length=8
    ),
    "GPT-2": lambda: models.GPT2Backbone(20, **SIZES, max_sequence_length=8),
    "XLNet": lambda: models.XLNetBackbone(20, **SIZES),
    "T5": lambda: models.T5Backbone(20, **SIZES),
    "T5 of KerasHub": lambda: keras_hub.models.T5Backbone(20, **SIZES),
}


class Classifier(TrainingMixin, keras.Model):
    """A backbone with a head, as the tasks have them."""

    def __init__(self):
        backbone = bert(dropout=0.0, num_layers=2)
        head = keras.layers.Dense(3, name="head")
        super().__init__(backbone.input, head(backbone(backbone.input)["pooled_output"]))
        self.backbone = backbone

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls()


def batches():
    rng = np.random.default_rng(0)
    x = {
        "token_ids": rng.integers(0, 20, (8, 6)).astype("int32"),
        "segment_ids": rng.integers(0, 2, (8, 6)).astype("int32"),
        "padding_mask": np.ones((8, 6), bool),
    }
    return tf.data.Dataset.from_tensors((x, rng.integers(0, 3, 8)))


def compiled(strategy=None, prepare=lambda model: None, run_eagerly=True, **arguments):
    keras.utils.set_random_seed(0)
    with (strategy or tf.distribute.get_strategy()).scope():
        model = Classifier()
        prepare(model)
        if "decay" in arguments:
            decay = training.layerwise_decay(model, arguments.pop("decay"))
            arguments["rate_multipliers"] = decay
        model.compile(AdamW(**arguments), GlobalMeanCrossentropy(), run_eagerly=run_eagerly)
    return model


def powers(model, rate=0.5):
    """Which power of the rate each trainable variable has."""
    multipliers = training.layerwise_decay(model, rate)
    return [round(np.log(multiplier) / np.log(rate)) for multiplier in multipliers]


@pytest.mark.parametrize("name", BACKBONES)
def test_rates_fall_from_the_head_to_the_embeddings(name):
    backbone = BACKBONES[name]()
    variables = map(id, backbone.trainable_variables)
    of = dict(zip(variables, powers(backbone), strict=True))
    expected = dict.fromkeys(of, 0)  # what stands above the blocks
    for stack in ("transformer_layers", "encoder_layers", "decoder_layers"):
        hub = stack.replace("_layers", "_transformer_layers")
        for i, block in enumerate(getattr(backbone, stack, None) or getattr(backbone, hub, ())):
            expected |= {id(v): 3 - i for v in block.trainable_variables}
    for layer in backbone.layers:
        if "embedding" in layer.name:
            expected |= {id(v): 4 for v in layer.trainable_variables}
    assert of == expected
    assert set(of.values()) >= {1, 2, 3, 4}


def test_the_head_learns_at_the_rate_itself():
    model = compiled()
    paths = [variable.path for variable in model.trainable_variables]
    by_path = dict(zip(paths, powers(model), strict=True))
    assert [by_path[f"head/{name}"] for name in ("kernel", "bias")] == [0, 0]
    assert by_path["token_embedding/embeddings"] == by_path["embeddings_norm/gamma"] == 3
    assert by_path["pooled_dense/kernel"] == 0
    assert {p for path, p in by_path.items() if path.startswith("transformer_layer_0")} == {2}


def test_a_step_with_multipliers_is_the_step_at_each_variables_own_rate():
    """Brute force: for every rate an optimizer of its own, of which one variable counts."""
    rng = np.random.default_rng(0)
    starts, multipliers = rng.normal(size=(3, 4, 5)), [1.0, 0.5, 0.25]
    gradients = rng.normal(size=(5, 3, 4, 5)).astype("float32")  # (steps, variables, ...)

    def trained(rate, **arguments):
        variables = [keras.Variable(start) for start in starts]
        schedule = training.WarmupLinearDecay(rate, total_steps=6, warmup_steps=1)
        optimizer = AdamW(schedule, weight_decay=0.3, global_clipnorm=2.0, **arguments)
        optimizer.build(variables)
        for step in gradients:
            optimizer.apply(list(map(keras.ops.convert_to_tensor, step)), variables)
        return np.array([variable.numpy() for variable in variables])

    ours = trained(0.1, rate_multipliers=multipliers)
    for i, multiplier in enumerate(multipliers):
        np.testing.assert_allclose(ours[i], trained(0.1 * multiplier)[i], atol=1e-6)
    np.testing.assert_array_equal(trained(0.1, rate_multipliers=[1.0] * 3), trained(0.1))


def test_frozen_layers_stay_and_others_move_alike_on_one_and_two_replicas():
    after = []
    for strategy in (None, training.strategy()):
        eager = strategy is None
        model = compiled(strategy, lambda model: training.freeze(model, 1), eager, decay=0.5)
        before = {v.path: v.numpy() for v in model.weights}
        model.fit(batches(), epochs=2, verbose=0)
        after.append({v.path: v.numpy() for v in model.weights})
    stay = ("token_", "position_", "segment_", "embeddings_", "transformer_layer_0")
    frozen = {path for path in before if path.startswith(stay)}
    assert len(frozen) == 21
    for path, start in before.items():
        np.testing.assert_allclose(after[0][path], after[1][path], atol=1e-6)
        moved = np.abs(after[0][path] - start).max() > 0
        assert moved != (path in frozen) or path.endswith("key/bias")  # softmax ignores these


def test_freezing_without_a_number_freezes_the_embeddings_alone():
    backbone = bert()
    training.freeze(backbone)
    frozen = {v.path.split("/")[0] for v in backbone.weights if not v.trainable}
    assert frozen == {
        "token_embedding",
        "position_embedding",
        "segment_embedding",
        "embeddings_norm",
    }


def test_a_saved_model_goes_on_frozen_and_at_its_rates(tmp_path):
    model = compiled(prepare=lambda model: training.freeze(model, 1), decay=0.5)
    model.fit(batches(), verbose=0)
    model.save(tmp_path / "model.keras")
    objects = {"Classifier": Classifier}
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects=objects)
    assert loaded.optimizer.rate_multipliers == model.optimizer.rate_multipliers
    assert len(loaded.trainable_variables) == len(model.trainable_variables) < len(model.weights)
    for m in (model, loaded):
        m.fit(batches(), verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rate", [0.0, 1.1, -0.5])
def test_rates_that_cannot_be(encoder, rate):
    with pytest.raises(ValueError, match="more than 0 and at most 1"):
        training.layerwise_decay(encoder, rate)


@pytest.mark.parametrize("number", [-1, 4])
def test_more_blocks_than_there_are(encoder, number):
    with pytest.raises(ValueError, match="at most the model's 3 blocks"):
        training.freeze(encoder, number)


def test_a_model_without_blocks():
    with pytest.raises(ValueError, match="Sequential has none of the lists of blocks"):
        training.freeze(keras.Sequential())


def test_freezing_after_the_rates_were_taken():
    model = compiled(decay=0.5)
    training.freeze(model)
    model.compile(model.optimizer, GlobalMeanCrossentropy(), run_eagerly=True)
    with pytest.raises(ValueError, match="after freezing"):
        model.fit(batches(), verbose=0)

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from keras_llm import models, training
from keras_llm.training import AdamW, GlobalMeanCrossentropy, TrainingMixin

SIZES = {"num_layers": 3, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}


def bert(**overrides):
    return models.BertBackbone(20, **SIZES, max_sequence_length=8, **overrides)


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
        backbone = bert(dropout=0.0)
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


def compiled(strategy=None, prepare=lambda model: None, **arguments):
    keras.utils.set_random_seed(0)
    with (strategy or tf.distribute.get_strategy()).scope():
        model = Classifier()
        prepare(model)
        if "decay" in arguments:
            decay = training.layerwise_decay(model, arguments.pop("decay"))
            arguments["rate_multipliers"] = decay
        model.compile(AdamW(**arguments), GlobalMeanCrossentropy())
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
    assert by_path["token_embedding/embeddings"] == by_path["embeddings_norm/gamma"] == 4
    assert by_path["pooled_dense/kernel"] == 0
    assert {p for path, p in by_path.items() if path.startswith("transformer_layer_0")} == {3}


def test_a_step_with_multipliers_is_the_step_at_each_variables_own_rate(replicas):
    """Brute force: for every rate a run of its own, of which the variables with it count."""
    arguments = {"weight_decay": 0.3, "global_clipnorm": 0.5}
    model = compiled(replicas, learning_rate=0.01, decay=0.5, **arguments)
    model.fit(batches(), verbose=0)
    multipliers = np.array(training.layerwise_decay(model, 0.5))
    for multiplier in sorted(set(multipliers)):
        plain = compiled(learning_rate=0.01 * multiplier, **arguments)
        plain.fit(batches(), verbose=0)
        for i in np.flatnonzero(multipliers == multiplier):
            np.testing.assert_allclose(
                model.trainable_variables[i].numpy(),
                plain.trainable_variables[i].numpy(),
                atol=1e-6,
                err_msg=model.trainable_variables[i].path,
            )


def test_a_rate_of_one_changes_nothing():
    one, plain = compiled(learning_rate=0.01, decay=1.0), compiled(learning_rate=0.01)
    for model in (one, plain):
        model.fit(batches(), epochs=3, verbose=0)
    for a, b in zip(one.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_frozen_layers_stay_and_all_others_move(replicas):
    model = compiled(replicas, lambda model: training.freeze(model, 2), weight_decay=0.5)
    before = {v.path: v.numpy() for v in model.weights}
    model.fit(batches(), epochs=2, verbose=0)
    moved = {v.path for v in model.weights if np.abs(v.numpy() - before[v.path]).max() > 0}
    stay = ("token_", "position_", "segment_", "embeddings_", "transformer_layer_0")
    stay += ("transformer_layer_1",)
    keys = {path for path in before if path.endswith("key/bias")}  # softmax ignores them
    frozen = {path for path in before if path.startswith(stay)}
    assert len(frozen) == 37
    assert moved | keys == set(before) - frozen | keys


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
        m.fit(batches(), epochs=2, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rate", [0.0, 1.1, -0.5])
def test_rates_that_cannot_be(rate):
    with pytest.raises(ValueError, match="more than 0 and at most 1"):
        training.layerwise_decay(bert(), rate)


@pytest.mark.parametrize("number", [-1, 4])
def test_more_blocks_than_there_are(number):
    with pytest.raises(ValueError, match="at most the model's 3 blocks"):
        training.freeze(bert(), number)


def test_a_model_without_blocks():
    with pytest.raises(ValueError, match="Sequential has none of the lists of blocks"):
        training.freeze(keras.Sequential())


def test_freezing_after_the_rates_were_taken():
    model = compiled(decay=0.5)
    training.freeze(model)
    model.compile(model.optimizer, GlobalMeanCrossentropy())
    with pytest.raises(ValueError, match="after freezing"):
        model.fit(batches(), verbose=0)

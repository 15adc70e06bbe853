import json

import battery
import keras
import keras_hub
import numpy as np
import pytest

from keras_llm.layers import RelativePositionBias
from keras_llm.models import T5Backbone, T5Seq2SeqLM, T5Seq2SeqLMPreprocessor
from keras_llm.models.t5 import SIZES as PUBLISHED
from keras_llm.training import AdamW

# Odd on purpose: 3 heads of 5 features beside 12.
SIZES = {
    "vocabulary_size": 30,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "key_value_dim": 5,
}
VERSIONS = {
    "1.0": {},
    "1.1": {
        "activation": "gelu_approximate",
        "use_gated_activation": True,
        "tie_embedding_weights": False,
    },
}

MASKS_OF_KERAS_HUB = "ignore:Layer '.*' .of type T5MultiHeadAttention.:UserWarning"
END = {"1.0": 21, "1.1": 10}  # what one of three texts of random weights comes to


def inputs(batch=3, source=7, target=6):
    rng = np.random.default_rng(0)
    return {
        "encoder_token_ids": rng.integers(3, 30, (batch, source), dtype="int32"),
        "encoder_padding_mask": np.arange(source) < [[source], [4], [1]],
        "decoder_token_ids": rng.integers(3, 30, (batch, target), dtype="int32"),
        "decoder_padding_mask": np.arange(target) < [[3], [target], [1]],
    }


def model_with_random_weights(version="1.0", **overrides):
    keras.utils.set_random_seed(0)
    model, rng = T5Backbone(**{**SIZES, **VERSIONS[version], **overrides}), np.random.default_rng(1)
    model.set_weights([w + 0.3 * rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def prompt(x, length):
    """Returns sources with empty targets of `length` tokens, the start token included."""
    batch = len(x["encoder_token_ids"])
    return {
        "encoder_token_ids": x["encoder_token_ids"],
        "encoder_padding_mask": x["encoder_padding_mask"],
        "decoder_token_ids": np.zeros((batch, length), "int32"),
        "decoder_padding_mask": np.arange(length) < np.ones((batch, 1)),
    }


def without_padding(outputs):
    """Returns what was generated as lists, up to the end token."""
    rows = zip(outputs["decoder_token_ids"], outputs["decoder_padding_mask"], strict=True)
    return [ids[mask].tolist() for ids, mask in rows]


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_equal_transformers(bidirectional):
    torch = pytest.importorskip("torch")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    distances = np.concatenate([np.arange(-2000, 2001), [-(10**6), -(2**15), 2**15, 10**6]])
    for buckets, farthest in ((32, 128), (32, 20), (8, 128), (64, 999)):
        layer = RelativePositionBias(3, buckets, farthest, bidirectional)
        np.testing.assert_array_equal(
            layer._buckets(keras.ops.convert_to_tensor(distances)),
            t5.T5Attention._relative_position_bucket(
                torch.tensor(distances), bidirectional, buckets, farthest
            ),
        )


# Section 3.7 says 60, 220, 770 million and 2.8 billion. Of version 1.1 the authors give no numbers:
# these are of its published files. "Scale Efficiently" (Tay et al., 2021), table 2: 16, 31 million.
@pytest.mark.parametrize(
    ("name", "version", "layers", "millions"),
    [
        ("tiny", None, 4, 15.6),
        ("mini", None, 4, 31.2),
        ("small", "1.0", 6, 60.5),
        ("base", "1.0", 12, 222.9),
        ("large", "1.0", 24, 737.7),
        ("xl", "1.0", 24, 2851.6),
        ("small", "1.1", 8, 77.0),
        ("base", "1.1", 12, 247.6),
        ("large", "1.1", 24, 783.2),
        ("xl", "1.1", 24, 2849.8),
    ],
)
def test_published_sizes(name, version, layers, millions):
    versions = {} if version is None else {"version": version}
    assert PUBLISHED[name, version or "1.0"][0] == layers
    counts = []
    for num_layers in (1, 2):  # the others are as large as the second
        with keras.StatelessScope(initialize_variables=False):  # shapes only
            make = getattr(T5Backbone, name)
            counts.append(make(32128, **versions, num_layers=num_layers).count_params())
        keras.utils.clear_session()
    count = counts[0] + (layers - 1) * (counts[1] - counts[0])
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


def test_no_such_version():
    with pytest.raises(ValueError, match=r'version must be "1\.0" or "1\.1"'):
        T5Backbone.small(100, version="2")


def test_each_stack_holds_one_table_of_distances():
    model = T5Backbone(**SIZES)
    shapes = [w.shape for w in model.weights]
    assert shapes.count((32, 3)) == 2
    assert shapes.count((30, 12)) == 1  # source, target and output
    assert not any("bias" in w.name for w in model.weights)
    assert not any("cross_attention/embeddings" in w.path for w in model.weights)


@pytest.mark.parametrize("version", VERSIONS)
def test_starts_as_wide_as_the_authors_model(version):
    """The deviations in the authors' code: by the inputs, and the query's by its depth too."""
    keras.utils.set_random_seed(0)
    sizes = {"hidden_dim": 96, "intermediate_dim": 160, "key_value_dim": 48, "num_layers": 1}
    model = T5Backbone(**{**SIZES, **VERSIONS[version], **sizes, "vocabulary_size": 500})
    deviations = {
        "token_embedding/embeddings": 1,
        "position_bias/embeddings": 96**-0.5,
        "attention/query_dense/kernel": (96 * 48) ** -0.5,
        "attention/key_dense/kernel": 96**-0.5,
        "attention/value_dense/kernel": 96**-0.5,
        "attention/output_dense/kernel": (3 * 48) ** -0.5,
        "feed_forward/intermediate_dense/kernel": 96**-0.5,
        "feed_forward/gated_dense/kernel": 96**-0.5,
        "feed_forward/output_dense/kernel": 160**-0.5,
    }
    for weight in model.weights:
        if weight.name == "scale":
            np.testing.assert_array_equal(weight, 1)
            continue
        found = [deviation for path, deviation in deviations.items() if weight.path.endswith(path)]
        # An output matrix of its own is a kernel like the others.
        (deviation,) = found if weight.path != "output_dense/kernel" else [96**-0.5]
        assert weight.numpy().std() == pytest.approx(deviation, rel=0.25), weight.path
        assert abs(weight.numpy().mean()) < 0.3 * deviation, weight.path


def test_the_future_cannot_change_the_past():
    model, x = model_with_random_weights(), inputs()
    before = battery.numpy(model(x))["decoder_sequence_output"]
    x["decoder_token_ids"][:, 4:] = (x["decoder_token_ids"][:, 4:] + 1) % 30
    after = battery.numpy(model(x))["decoder_sequence_output"]
    battery.assert_close(after[:, :4], before[:, :4], 1e-6)
    assert np.abs(after[1, 4:] - before[1, 4:]).max() > 0.1


def test_padding_on_either_side_changes_nothing():
    model, x = model_with_random_weights(), inputs()
    expected = battery.numpy(model(x))
    shifts = {"encoder": 3, "decoder": 2}
    padded = {name: np.pad(array, [(0, 0), (shifts[name[:7]], 1)]) for name, array in x.items()}
    actual = battery.numpy(model(padded))
    for stack, shift in shifts.items():
        mask, output = x[f"{stack}_padding_mask"], f"{stack}_sequence_output"
        battery.assert_close(actual[output][:, shift:-1][mask], expected[output][mask], 1e-5)


@pytest.mark.parametrize("pieces", [(1,) * 6, (2, 3, 1)], ids=str)
def test_cached_equals_uncached(pieces):
    model, x = model_with_random_weights(), inputs()
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


def test_drops_where_the_paper_does():
    model, x = model_with_random_weights(dropout=0.5), inputs()
    layer = model.decoder_layers[0]
    assert layer.feed_forward.intermediate_dropout == layer.dropout == 0.5
    # The output of each stack is dropped too: about half of its features are zeros.
    outputs = battery.numpy(model(x, training=True))
    for output in outputs.values():
        assert 0.3 < (output == 0).mean() < 0.7
    battery.assert_close(battery.numpy(model(x)), battery.numpy(model(x)))


@pytest.mark.parametrize("version", VERSIONS)
def test_round_trip(version, tmp_path):
    model, x = model_with_random_weights(version), inputs()
    config = json.loads(json.dumps(model.get_config()))
    assert json.loads(json.dumps(T5Backbone.from_config(config).get_config())) == config
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    battery.assert_close(battery.numpy(loaded(x)), battery.numpy(model(x)))
    vectors = np.ones((1, 12), "float32")
    battery.assert_close(
        battery.numpy(loaded.logits(vectors)), battery.numpy(model.logits(vectors))
    )


@pytest.mark.filterwarnings(MASKS_OF_KERAS_HUB)
def test_takes_the_configuration_of_keras_hubs():
    theirs = keras_hub.models.T5Backbone(**SIZES, activation="relu")
    config = {**theirs.get_config(), "name": "ours"}
    ours = T5Backbone.from_config(config)
    assert ours.get_config() == config
    assert ours.count_params() == theirs.count_params()
    assert ours.input.keys() == theirs.input.keys()
    assert ours.output.keys() == theirs.output.keys()


def test_precisions_agree():
    model, x = model_with_random_weights(), inputs()
    expected = battery.numpy(model(x))
    for dtype, tolerance in battery.PRECISIONS.items():
        other = T5Backbone(**SIZES, dtype=dtype)
        other.set_weights(model.get_weights())
        battery.assert_close(battery.numpy(other(x)), expected, 3 * tolerance)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("size", [0, 1.5])
def test_wrong_sizes(name, size):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer. Got {size}"):
        T5Backbone(**{**SIZES, name: size})


def test_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="num_heads=5 does not divide hidden_dim=12: say with key"):
        T5Backbone(**{**SIZES, "num_heads": 5, "key_value_dim": None})


# === The task ===


def test_greedy_with_a_cache_equals_naive_recomputation():
    task, x = T5Seq2SeqLM(model_with_random_weights()), prompt(inputs(), 12)
    # The second target has begun already.
    x["decoder_token_ids"][1, 1:4] = 5, 6, 7
    x["decoder_padding_mask"][1, 1:4] = True
    is_given, written = x["decoder_padding_mask"], x["decoder_token_ids"].copy()
    for i in range(1, 12):
        everything = {"decoder_token_ids": written, "decoder_padding_mask": np.ones((3, 12), bool)}
        logits = task.predict_on_batch({**x, **everything})
        written[:, i] = np.where(is_given[:, i], written[:, i], logits[:, i - 1].argmax(-1))
    assert len(np.unique(written)) > 4
    actual = task.generate(x, stop_token_ids=None)["decoder_token_ids"]
    np.testing.assert_array_equal(actual, written)


def test_generation_of_a_text_does_not_depend_on_the_others():
    task, x = T5Seq2SeqLM(model_with_random_weights()), prompt(inputs(), 12)
    together = without_padding(task.generate(x, stop_token_ids=[END["1.0"]]))
    for row in range(3):
        alone = {name: array[row : row + 1] for name, array in x.items()}
        assert without_padding(task.generate(alone, stop_token_ids=[END["1.0"]])) == [together[row]]


PAIRS = (["say yes", "say no", "count to six"] * 8, ["yes", "no", "one two six"] * 8)


@pytest.fixture(scope="module")
def trained():
    """A task that has learned three pairs of texts."""
    from keras_llm.tokenizers import UnigramTokenizer  # not where TensorFlow is not installed

    keras.utils.set_random_seed(0)
    tokenizer = UnigramTokenizer.train(PAIRS[0] + PAIRS[1], 20, num_sentinels=2)
    task = T5Seq2SeqLM(
        T5Backbone(20, 1, 2, 32, 64, dropout=0.0), T5Seq2SeqLMPreprocessor(tokenizer, 12, 14)
    )
    task.compile(AdamW(1e-2))
    history = task.fit(*PAIRS, batch_size=8, epochs=20, verbose=0)
    assert history.history["loss"][-1] < 0.1
    return task


def test_fits_and_generates_strings(trained):
    assert trained.generate(PAIRS[0][:3]) == PAIRS[1][:3]
    assert trained.generate("count to six") == "one two six"
    assert "one two six".startswith(trained.generate("count to six", max_length=5))
    assert len(trained.generate("count to six", max_length=5)) < 6
    begun = {"encoder_text": "count to six", "decoder_text": "one two"}
    assert trained.generate(begun) == "one two six"


def test_the_order_of_the_texts_has_a_seed(trained, monkeypatch):
    def batches(task, dataset, *_, **kwargs):
        return [x["encoder_text"].numpy().tolist() for x in dataset], kwargs["steps_per_epoch"]

    monkeypatch.setattr(keras_hub.models.T5Seq2SeqLM, "fit", batches, raising=False)
    (first, steps), (again, _), (other, _) = (
        trained.fit(*PAIRS, batch_size=4, epochs=2, seed=seed) for seed in (1, 1, 2)
    )
    assert steps == 6 and len(first) == 12
    assert first == again != other
    assert first[:6] != first[6:]
    for epoch in (first[:6], first[6:]):
        assert sorted(text.decode() for batch in epoch for text in batch) == sorted(PAIRS[0])


@pytest.mark.parametrize(
    ("x", "y", "error"),
    [
        (["say yes"], None, "1 sources and 0 targets"),
        (["say yes"], ["yes", "no"], "1 sources and 2 targets"),
        ([], [], "There are no texts"),
        ("say yes", "say yes", "Expected a list of texts"),
        (["say yes"], [3], "is 3, not a string"),
    ],
)
def test_texts_that_do_not_fit(trained, x, y, error):
    with pytest.raises((ValueError, TypeError), match=error):
        trained.fit(x, y)


def test_texts_need_a_tokenizer():
    with pytest.raises(ValueError, match="the model has no preprocessor"):
        T5Seq2SeqLM(T5Backbone(20, 1, 1, 4, 4)).fit(*PAIRS)


def test_strings_in_keras_hubs_form_are_the_same(trained):
    texts = dict(zip(("encoder_text", "decoder_text"), PAIRS, strict=True))
    measured = trained.evaluate(texts, verbose=0, return_dict=True)
    assert measured == trained.evaluate(*PAIRS, verbose=0, return_dict=True)
    x, y, weights = trained.preprocessor(texts)
    measured_on_ids = trained.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    assert measured_on_ids["loss"] == pytest.approx(measured["loss"], rel=1e-4)


@pytest.mark.parametrize("sampler", ["top_k", "beam"])
def test_samplers(trained, sampler):
    task = T5Seq2SeqLM(trained.backbone, trained.preprocessor, compile=False)
    task.compile(sampler=sampler)
    assert task.generate(PAIRS[0][:3]) == PAIRS[1][:3]  # it is that sure


def test_a_saved_task_goes_on(trained, tmp_path):
    trained.save(tmp_path / "task.keras")
    loaded = keras.models.load_model(tmp_path / "task.keras")
    assert loaded.generate(PAIRS[0][:3]) == PAIRS[1][:3]
    assert loaded.preprocessor.get_config()["decoder_sequence_length"] == 14
    before = trained.evaluate(*PAIRS, verbose=0, return_dict=True)
    assert loaded.evaluate(*PAIRS, verbose=0, return_dict=True) == before
    loaded.fit(*PAIRS, batch_size=8, verbose=0)


def test_too_many_tokens(trained):
    with pytest.raises(ValueError, match="The tokenizer has 20 tokens and the backbone only 19"):
        T5Seq2SeqLM(T5Backbone(19, 1, 1, 8, 8), trained.preprocessor)


@pytest.mark.filterwarnings(MASKS_OF_KERAS_HUB)
def test_keras_hubs_backbone_goes_in(trained, tmp_path):
    theirs = keras_hub.models.T5Backbone(**{**SIZES, "num_layers": 1}, use_gated_activation=False)
    task, reference = T5Seq2SeqLM(theirs), keras_hub.models.T5Seq2SeqLM(theirs)
    reference.compile(sampler="greedy")
    x = inputs()
    battery.assert_close(battery.numpy(task(x)), battery.numpy(reference(x)), 1e-6)
    expected = reference.generate(prompt(x, 12), stop_token_ids=None)["decoder_token_ids"]
    actual = task.generate(prompt(x, 12), stop_token_ids=None)["decoder_token_ids"]
    np.testing.assert_array_equal(actual, expected)
    task.fit(x, np.ones((3, 6), "int32"), verbose=0)
    task.save(tmp_path / "task.keras")
    loaded = keras.models.load_model(tmp_path / "task.keras")
    battery.assert_close(battery.numpy(loaded(x)), battery.numpy(task(x)))

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from keras_llm import training
from keras_llm.models import BertBackbone, RobertaBackbone
from keras_llm.tasks import TextClassifier, TextClassifierPreprocessor
from keras_llm.tokenizers import BytePairTokenizer, WordPieceTokenizer

WORDS = ["good", "bad", "film", "very", "a", "the", "好", "坏"]
TOKENIZER = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
TEXTS = ["a good film", "a bad film", "very good", "the very bad film", "好", "坏"] * 8
LABELS = ["positive", "negative"] * 24


def backbone(**overrides):
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
    sizes |= {"vocabulary_size": 13, "max_sequence_length": 12, "dropout": 0.0}
    return BertBackbone(**(sizes | overrides))


def classifier(strategy=None, **kwargs):
    keras.utils.set_random_seed(0)
    with (strategy or tf.distribute.get_strategy()).scope():
        kwargs = {"classes": ["negative", "positive"], "dropout": 0.0} | kwargs
        model = TextClassifier(backbone(), TOKENIZER, **kwargs)
        model.compile(training.AdamW(0.003))
    return model


def test_learns_and_speaks_names(replicas):
    model = classifier(replicas)
    model.fit(TEXTS, LABELS, batch_size=16, epochs=30, validation_data=(TEXTS, LABELS), verbose=0)
    assert model.evaluate(TEXTS, LABELS, verbose=0)["accuracy"] == 1.0
    predicted = model.predict(["very good", "坏"], verbose=0)
    assert predicted["label"].tolist() == ["positive", "negative"]
    np.testing.assert_allclose(predicted["probabilities"].sum(axis=1), 1.0, atol=1e-6)


def test_one_and_two_replicas_train_alike_also_on_a_ragged_last_batch():
    texts, labels = TEXTS[:45], LABELS[:45]  # the last batch of 16 holds 13
    weights = []
    for strategy in (tf.distribute.get_strategy(), training.strategy()):
        model = classifier(strategy)
        model.fit(texts, labels, batch_size=16, epochs=3, verbose=0)
        weights.append(model.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_same_seed_same_weights_other_seed_other_order():
    weights = []
    for seed in (1, 1, 2):
        model = classifier()
        model.fit(TEXTS, LABELS, batch_size=16, seed=seed, verbose=0)
        weights.append(model.get_weights()[0])
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.abs(weights[0] - weights[2]).max() > 0


def test_dataset_of_pairs_trains_as_lists_do():
    model, other = classifier(), classifier()
    model.fit(TEXTS, LABELS, batch_size=48, epochs=2, verbose=0)  # one batch: order plays no part
    pairs = tf.data.Dataset.from_tensor_slices((TEXTS, LABELS)).batch(48)
    other.fit(pairs, epochs=2, verbose=0)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_predictions_do_not_depend_on_the_batch(pooling):
    model = classifier(pooling=pooling)
    together = model.predict(TEXTS, verbose=0)["probabilities"]
    alone = [model.predict([text], verbose=0)["probabilities"][0] for text in TEXTS[:6]]
    np.testing.assert_allclose(together[:6], alone, atol=1e-6)


def test_mean_pooling_averages_real_tokens_only():
    model = classifier(pooling="mean")
    x = model.preprocessor(tf.constant(["a good film", "好"]))
    encoded = model.backbone(x)["sequence_output"].numpy()  # (batch, length, hidden_dim)
    rows = [encoded[0, :5].mean(axis=0), encoded[1, :3].mean(axis=0)]  # [CLS] tokens [SEP]
    kernel, bias = (w.numpy() for w in model.backbone.pooled_dense.weights)
    pooled = np.tanh(np.stack(rows) @ kernel + bias)
    kernel, bias = (w.numpy() for w in model.output_dense.weights)
    np.testing.assert_allclose(model(x).numpy(), pooled @ kernel + bias, atol=1e-6)


def test_sample_weights_of_zero_are_as_good_as_absence():
    model, other = classifier(), classifier()
    real = [1.0] * 24 + [0.0] * 24
    model.fit(TEXTS, LABELS, batch_size=48, sample_weight=real, epochs=2, verbose=0)
    other.fit(TEXTS[:24], LABELS[:24], batch_size=24, epochs=2, verbose=0)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_keras_file_round_trip_continues_training(tmp_path, pooling):
    model = classifier(pooling=pooling)
    model.fit(TEXTS, LABELS, epochs=1, verbose=0)
    model.save(tmp_path / "classifier.keras")
    loaded = keras.models.load_model(tmp_path / "classifier.keras")
    np.testing.assert_array_equal(
        model.predict(TEXTS, verbose=0)["probabilities"],
        loaded.predict(TEXTS, verbose=0)["probabilities"],
    )
    for m in (model, loaded):
        m.fit(TEXTS, LABELS, epochs=1, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_keras_hub_backbone():
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
    hub = keras_hub.models.BertBackbone(vocabulary_size=13, max_sequence_length=12, **sizes)
    model = TextClassifier(hub, TOKENIZER, ["negative", "positive"])
    model.compile(training.AdamW(0.003))
    model.fit(TEXTS, LABELS, epochs=30, verbose=0)
    assert model.evaluate(TEXTS, LABELS, verbose=0)["accuracy"] > 0.9


def test_long_texts_are_cut_and_short_ones_padded_to_the_longest():
    preprocess = TextClassifierPreprocessor(TOKENIZER, ["a", "b"], sequence_length=6)
    inputs = preprocess(tf.constant(["film " * 100, "good", ""]))
    film, good = TOKENIZER.token_to_id("film"), TOKENIZER.token_to_id("good")
    assert inputs["token_ids"].numpy().tolist() == [
        [2, film, film, film, film, 3],
        [2, good, 3, 0, 0, 0],
        [2, 3, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(inputs["padding_mask"], inputs["token_ids"].numpy() != 0)


@pytest.mark.parametrize(
    ("texts", "labels", "error", "message"),
    [
        ("a good film", ["positive"], TypeError, "put it in a list"),
        ([], [], ValueError, "list of texts is empty"),
        (["good", 3], ["positive", "negative"], TypeError, r"texts\[1\] is 3"),
        (["good"], None, ValueError, "Labels are missing"),
        (["good"], ["positive", "negative"], ValueError, "1 texts, 2 labels"),
        (["good", "bad"], ["positive", "neutral"], ValueError, "not in classes.*neutral"),
    ],
)
def test_bad_input_is_named_before_training(texts, labels, error, message):
    model = classifier()
    before = model.get_weights()
    with pytest.raises(error, match=message):
        model.fit(texts, labels, verbose=0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_unknown_label_in_a_dataset():
    pairs = tf.data.Dataset.from_tensor_slices((["good"], ["neutral"])).batch(1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not in classes"):
        classifier().fit(pairs, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ["one"]}, "two or more"),
        ({"classes": ["one", "one"]}, "two or more"),
        ({"sequence_length": 13}, "12 positions"),
        ({"sequence_length": 2}, "at least 3"),
        ({"pooling": "max"}, '"cls" or "mean"'),
    ],
)
def test_parts_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        classifier(**arguments)


def test_tokenizer_larger_than_the_backbone():
    with pytest.raises(ValueError, match="13 tokens and the backbone only 5"):
        TextClassifier(backbone(vocabulary_size=5), TOKENIZER, ["negative", "positive"])


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("cls", [RobertaBackbone, keras_hub.models.RobertaBackbone])
def test_backbone_without_pooled_output_and_segments(tmp_path, cls, pooling):
    keras.utils.set_random_seed(0)
    tokenizer = BytePairTokenizer.train(TEXTS, 270, special_tokens=BytePairTokenizer.ROBERTA)
    size = tokenizer.vocabulary_size()
    backbone = cls(size, 1, 2, 16, 32, dropout=0.0, max_sequence_length=20)
    model = TextClassifier(
        backbone, tokenizer, ["negative", "positive"], dropout=0.0, pooling=pooling
    )
    model.compile(training.AdamW(0.003))
    model.fit(TEXTS, LABELS, batch_size=16, epochs=30, verbose=0)
    assert model.evaluate(TEXTS, LABELS, verbose=0)["accuracy"] == 1.0
    model.save(tmp_path / "classifier.keras")
    loaded = keras.models.load_model(tmp_path / "classifier.keras")
    expected = model.predict(TEXTS, verbose=0)["probabilities"]
    np.testing.assert_allclose(
        loaded.predict(TEXTS, verbose=0)["probabilities"], expected, atol=1e-6
    )

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import precision_recall_fscore_support
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.utils.class_weight import compute_sample_weight

from keras_llm import serving, training
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


def classifier(strategy=None, rate=0.003, run_eagerly=True, **kwargs):
    """A classifier; for a few steps to trace a graph would take longer than the steps."""
    keras.utils.set_random_seed(0)
    with (strategy or tf.distribute.get_strategy()).scope():
        kwargs = {"classes": ["negative", "positive"], "dropout": 0.0} | kwargs
        model = TextClassifier(backbone(), TOKENIZER, **kwargs)
        model.compile(training.AdamW(rate), run_eagerly=run_eagerly)
    return model


@pytest.fixture(scope="module")
def trained():
    """A classifier that tests share and leave as it is."""
    model = classifier(rate=0.01, run_eagerly=False)
    fit(model, TEXTS, LABELS, epochs=15)
    return model


def fit(model, texts, labels, epochs):
    """Trains, and validates in the last epoch."""
    validation = {"validation_data": (texts, labels), "validation_freq": [epochs]}
    history = model.fit(texts, labels, batch_size=16, epochs=epochs, verbose=0, **validation)
    assert history.history["val_accuracy"] == [1.0]


@pytest.fixture(scope="module")
def untrained():
    """For what fails before it changes anything."""
    return classifier()


def test_learns_and_speaks_names(trained):
    assert trained.evaluate(TEXTS, LABELS, verbose=0)["accuracy"] == 1.0
    predicted = trained.predict(["very good", "坏"], verbose=0)
    assert predicted["label"].tolist() == ["positive", "negative"]
    np.testing.assert_allclose(predicted["probabilities"].sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("several", [False, True], ids=["one label", "several labels"])
def test_one_and_two_replicas_are_alike_also_on_a_ragged_last_batch(several):
    make, texts, labels = (tagger, PROSE, TOPICS) if several else (classifier, TEXTS, LABELS)
    data = (texts[:45], labels[:45])  # the last batch of 16 holds 13
    found = []
    for strategy in (None, training.strategy()):
        model = make(strategy, run_eagerly=strategy is None)
        history = model.fit(*data, batch_size=16, validation_data=data, verbose=0).history
        calibration = model.calibrate(*data, verbose=0)
        found.append((model.get_weights(), {**history, **calibration}))
    (weights, figures), (others, other_figures) = found
    for one, two in zip(weights, others, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    assert {"val_loss", "val_accuracy", "temperature"} < set(figures)
    for name, figure in figures.items():
        # Keras weighs the replicas' shares of the last loss by 7 and 6 texts when it logs them.
        atol = 0.005 if name.endswith("loss") else 1e-4
        np.testing.assert_allclose(other_figures[name], figure, atol=atol, err_msg=name)


def test_same_seed_same_weights_other_seed_other_order():
    weights = []
    for seed in (1, 1, 2):
        model = classifier()
        model.fit(TEXTS, LABELS, batch_size=24, seed=seed, verbose=0)
        weights.append(model.get_weights()[0])
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.abs(weights[0] - weights[2]).max() > 0


def test_dataset_of_pairs_trains_as_lists_do():
    model, other = classifier(), classifier()
    model.fit(TEXTS, LABELS, batch_size=48, verbose=0)  # one batch: order plays no part
    pairs = tf.data.Dataset.from_tensor_slices((TEXTS, LABELS)).batch(48)
    other.fit(pairs, verbose=0)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_predictions_do_not_depend_on_the_batch():
    model = classifier(pooling="mean")
    texts = ["the very bad film", "坏", ""]
    together = model.predict(texts, verbose=0)["probabilities"]
    alone = [model.predict([text], verbose=0)["probabilities"][0] for text in texts]
    np.testing.assert_allclose(together, alone, atol=1e-6)


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
    model.fit(TEXTS, LABELS, batch_size=48, sample_weight=real, verbose=0)
    other.fit(TEXTS[:24], LABELS[:24], batch_size=24, verbose=0)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_keras_file_round_trip_continues_training(tmp_path):
    model = classifier(pooling="mean")
    model.fit(TEXTS, LABELS, batch_size=48, verbose=0)
    model.save(tmp_path / "classifier.keras")
    loaded = keras.models.load_model(tmp_path / "classifier.keras")
    np.testing.assert_array_equal(
        model.predict(TEXTS, verbose=0)["probabilities"],
        loaded.predict(TEXTS, verbose=0)["probabilities"],
    )
    for m in (model, loaded):
        m.fit(TEXTS, LABELS, batch_size=48, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


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
def test_bad_input_is_named_before_training(untrained, texts, labels, error, message):
    before = untrained.get_weights()
    with pytest.raises(error, match=message):
        untrained.fit(texts, labels, verbose=0)
    for a, b in zip(before, untrained.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_unknown_label_in_a_dataset(untrained):
    pairs = tf.data.Dataset.from_tensor_slices((["good"], ["neutral"])).batch(1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not in classes"):
        untrained.fit(pairs, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ["one"]}, "two or more"),
        ({"classes": ["one", "one"]}, "two or more"),
        ({"sequence_length": 13}, "12 positions"),
        ({"sequence_length": 2}, "at least 3"),
        ({"pooling": "max"}, '"cls" or "mean"'),
        ({"classes": [""], "multi_label": True}, "one or more"),
        ({"multi_label": True, "abstain_below": 0.5}, "for one label a text"),
        ({"abstain_label": "positive"}, "is a class"),
        ({"threshold": 0.0}, "threshold must be"),
    ],
)
def test_parts_that_do_not_fit(untrained, arguments, message):
    arguments = {"classes": ["negative", "positive"]} | arguments
    with pytest.raises(ValueError, match=message):
        TextClassifier(untrained.backbone, TOKENIZER, **arguments)


def test_tokenizer_larger_than_the_backbone():
    with pytest.raises(ValueError, match="13 tokens and the backbone only 5"):
        TextClassifier(backbone(vocabulary_size=5), TOKENIZER, ["negative", "positive"])


@pytest.mark.parametrize(
    ("cls", "pooling"),
    [
        (keras_hub.models.BertBackbone, "cls"),
        (RobertaBackbone, "cls"),
        (keras_hub.models.RobertaBackbone, "mean"),
    ],
)
def test_other_backbones_also_without_pooled_output_and_segments(tmp_path, cls, pooling):
    keras.utils.set_random_seed(0)
    tokenizer = BytePairTokenizer.train(TEXTS, 270, special_tokens=BytePairTokenizer.ROBERTA)
    size = tokenizer.vocabulary_size()
    backbone = cls(size, 1, 2, 16, 32, dropout=0.0, max_sequence_length=20)
    model = TextClassifier(
        backbone, tokenizer, ["negative", "positive"], dropout=0.0, pooling=pooling
    )
    model.compile(training.AdamW(0.01, weight_decay=0.0), run_eagerly=True)
    before = model.get_weights()
    model.fit(TEXTS[:6], LABELS[:6], verbose=0)
    for variable, start in zip(model.weights, before, strict=True):  # the gradient reaches all
        moved = np.abs(variable.numpy() - start).max() > 0
        assert moved == variable.trainable, variable.path
    model.save(tmp_path / "classifier.keras")
    loaded = keras.models.load_model(tmp_path / "classifier.keras")
    expected = model.predict(TEXTS[:6], verbose=0)["probabilities"]
    np.testing.assert_allclose(
        loaded.predict(TEXTS[:6], verbose=0)["probabilities"], expected, atol=1e-6
    )


# === Several labels a text ===

TOPICS = [(), ("film",), ("quality",), ("film", "quality"), ("film",), ("quality",)] * 8
PROSE = ["the", "a film", "very good", "the good film", "film a", "good"] * 8


def tagger(strategy=None, **kwargs):
    kwargs = {"classes": ["film", "quality", "好"], "pooling": "mean"} | kwargs
    return classifier(strategy, rate=0.02, multi_label=True, **kwargs)


@pytest.fixture(scope="module")
def trained_tagger():
    """A model of several labels that tests share and leave as it is."""
    model = tagger(run_eagerly=False)
    fit(model, PROSE, TOPICS, epochs=30)
    return model


@pytest.fixture(scope="module")
def untrained_tagger():
    return tagger()


def test_several_labels_and_none(trained_tagger):
    figures = trained_tagger.evaluate(PROSE, TOPICS, verbose=0)
    assert figures["accuracy"] == 1.0
    assert figures["f1"] == pytest.approx(2 / 3, abs=1e-5)  # no text has the third class
    predicted = trained_tagger.predict(PROSE[:4], verbose=0)
    assert predicted["labels"] == TOPICS[:4]


def test_several_labels_are_saved_and_exported(tmp_path, trained_tagger):
    expected = trained_tagger.predict(PROSE[:6], verbose=0)
    export = tf.saved_model.load(serving.export(trained_tagger, tmp_path / "export"))
    served = export.signatures["serving_default"](text=tf.constant(PROSE[:6]))
    names = [[name.decode() for name in row] for row in served["labels"].numpy()]
    assert [tuple(filter(None, row)) for row in names] == TOPICS[:6]
    assert names[3] == ["film", "quality", ""]
    np.testing.assert_allclose(served["probabilities"], expected["probabilities"], atol=1e-6)

    trained_tagger.threshold = 1e-9  # it may change later: all classes are given now
    trained_tagger.save(tmp_path / "tagger.keras")
    trained_tagger.threshold = 0.5
    loaded = keras.models.load_model(tmp_path / "tagger.keras")
    loaded.run_eagerly = True
    predicted = loaded.predict(PROSE[:2], verbose=0)
    assert predicted["labels"] == [("film", "quality", "好")] * 2
    np.testing.assert_allclose(predicted["probabilities"], expected["probabilities"][:2], atol=1e-6)
    assert "f1" in loaded.evaluate(PROSE, TOPICS, verbose=0)


def test_several_labels_in_a_dataset_may_be_ragged_or_padded():
    preprocess = TextClassifierPreprocessor(TOKENIZER, ["film", "quality"], 8, multi_label=True)
    names = tf.ragged.constant([["film"], [], ["quality", "film"]])
    pairs = tf.data.Dataset.from_tensor_slices((PROSE[:3], names)).batch(3).map(preprocess)
    for _, y in (next(iter(pairs)), preprocess(tf.constant(PROSE[:3]), names.to_tensor())):
        np.testing.assert_array_equal(y, [[1, 0], [0, 0], [1, 1]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="not in classes"):
        preprocess(tf.constant(["good"]), tf.constant([["film", "plot"]]))


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([("film",), "film"], TypeError, r"labels\[1\] is 'film', not a tuple"),
        ([("film",), (3,)], TypeError, r"labels\[1\]"),
        ("film", TypeError, "got the string"),
        ([("film",), ("film", "plot")], ValueError, "not in classes.*plot"),
        ([("film",)], ValueError, "2 texts, 1 labels"),
    ],
)
def test_bad_labels_of_several(untrained_tagger, labels, error, message):
    with pytest.raises(error, match=message):
        untrained_tagger.fit(["good film", "bad film"], labels, verbose=0)


# === What a class counts ===


def first_loss(model, texts, labels, **weights):
    """The loss of the first step, which is taken on all texts, and the probabilities before it."""
    probabilities = model.predict(texts, verbose=0)["probabilities"]
    history = model.fit(texts, labels, batch_size=1000, verbose=0, **weights)
    return history.history["loss"][0], probabilities


def test_weights_of_classes_and_of_texts_multiply():
    loss, probabilities = first_loss(
        classifier(),
        TEXTS[:6],
        LABELS[:6],
        class_weight={"positive": 2},
        sample_weight=[1, 1, 3, 1, 1, 0],
    )
    losses = -np.log(probabilities[np.arange(6), [1, 0] * 3])
    assert loss == pytest.approx(np.average(losses, weights=[2, 1, 6, 1, 2, 0]), abs=1e-6)


def test_balanced_weights_are_those_of_scikit_learn(untrained):
    labels = ["positive"] * 3 + ["negative"] * 9
    ours = untrained._label_weights(labels, "balanced")
    np.testing.assert_allclose(ours, compute_sample_weight("balanced", labels))


def test_weights_of_several_labels_count_where_a_class_is_present():
    model, labels = tagger(), [("film",), (), ("film", "quality")]
    _, names = model._columns(PROSE[:3], labels)
    balanced = model._label_weights(names, "balanced")  # absent : present is 1 : 2, 2 : 1, 3 : 0
    np.testing.assert_array_equal(balanced, [[0.5, 1, 1], [1, 1, 1], [0.5, 2, 1]])
    weights = {"film": 5.0}
    loss, probabilities = first_loss(model, PROSE[:3], labels, class_weight=weights)
    truth = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0]])
    losses = -np.log(np.where(truth, probabilities, 1 - probabilities))
    weights = [[5, 1, 1], [1, 1, 1], [5, 1, 1]]
    assert loss == pytest.approx(np.average(losses, weights=weights), abs=1e-6)


@pytest.mark.parametrize("weights", [{"neutral": 2.0}, {"positive": -1.0}, "equal"])
def test_weights_of_classes_that_there_are_not(untrained, weights):
    with pytest.raises(ValueError, match="class_weight must be"):
        untrained.fit(TEXTS, LABELS, class_weight=weights, verbose=0)


def test_weights_of_classes_need_lists(untrained):
    pairs = tf.data.Dataset.from_tensor_slices((TEXTS, LABELS)).batch(48)
    with pytest.raises(ValueError, match="needs lists"):
        untrained.fit(pairs, class_weight="balanced", verbose=0)


# === Calibration and abstaining ===


@pytest.mark.parametrize("several", [False, True])
def test_calibration_makes_probabilities_true(tmp_path, trained, trained_tagger, several):
    """Of each text a quarter of the labels are wrong; the model knows the right ones by heart."""
    wrong = [i // 6 % 4 == 0 for i in range(48)]
    if several:
        model, texts, key, every = trained_tagger, PROSE, "labels", {"film", "quality", "好"}
        labels = [tuple(every - set(t)) if w else t for t, w in zip(TOPICS, wrong, strict=True)]
    else:
        model, texts, key = trained, TEXTS, "label"
        labels = [LABELS[i + w] for i, w in enumerate(wrong)]
    temperature = model.temperature_scaling.temperature
    assert all(temperature is not variable for variable in model.trainable_variables)

    def predict(model):
        answer = model.predict(texts, verbose=0)
        p = answer["probabilities"]
        return list(answer[key]), np.maximum(p, 1 - p).mean()  # of two classes, and of yes and no

    names, confidence = predict(model)
    found = model.calibrate(texts, labels, verbose=0)
    assert found["temperature"] > 1.2
    assert found["ece_before"] == pytest.approx(abs(confidence - 0.75), abs=0.02)
    assert found["ece_after"] < found["ece_before"] / 2
    names_after, confidence_after = predict(model)
    assert names_after == names
    assert confidence_after == pytest.approx(0.75, abs=0.05)
    again = model.calibrate(texts, labels, verbose=0)  # from 1, not from the last one
    assert again == pytest.approx(found)

    model.save(tmp_path / "classifier.keras")
    loaded = keras.models.load_model(tmp_path / "classifier.keras")
    loaded.run_eagerly = True
    temperature.assign(1.0)
    assert predict(loaded)[1] == pytest.approx(confidence_after, abs=1e-6)


def test_a_label_is_withheld_where_the_model_is_not_sure(tmp_path):
    model = classifier(abstain_below=0.0, abstain_label="ask a person")
    model.temperature_scaling.temperature.assign(0.01)  # a new model is not sure of anything
    texts = ["a good film", "坏", "the very very bad film", ""]
    top = np.sort(model.predict(texts, verbose=0)["probabilities"].max(axis=1))
    model.abstain_below = float(top[1:3].mean())
    predicted = model.predict(texts, verbose=0)
    top = predicted["probabilities"].max(axis=1)
    names = np.array(model.classes)[predicted["probabilities"].argmax(axis=1)]
    expected = np.where(top >= model.abstain_below, names, "ask a person").tolist()
    assert predicted["label"].tolist() == expected
    assert expected.count("ask a person") == 2
    model.save(tmp_path / "classifier.keras")
    loaded = keras.models.load_model(tmp_path / "classifier.keras")
    assert loaded.predict(texts, verbose=0)["label"].tolist() == expected
    export = tf.saved_model.load(serving.export(model, tmp_path / "export"))
    served = export.signatures["serving_default"](text=tf.constant(texts))
    assert [name.decode() for name in served["label"].numpy()] == expected


# === Figures of classes ===


def test_report_equals_scikit_learn():
    model = classifier(classes=["negative", "neutral", "positive"], abstain_below=0.4)
    model.fit(TEXTS[:12], LABELS[:12], epochs=5, verbose=0)
    labels = (["positive", "neutral", "negative", "negative"] * 12)[:48]
    predicted = model.predict(TEXTS, verbose=0)["label"].tolist()
    report = model.report(TEXTS, labels, verbose=0)
    expected = precision_recall_fscore_support(
        labels, predicted, labels=model.classes, zero_division=0
    )
    ours = [list(figures.values()) for figures in report.values()]
    np.testing.assert_allclose(np.transpose(ours), expected, atol=1e-6)


def test_report_of_several_labels_equals_scikit_learn(trained_tagger):
    model = trained_tagger
    labels = [*TOPICS[1:], TOPICS[0]]
    predicted = model.predict(PROSE, verbose=0)["labels"]
    binarizer = MultiLabelBinarizer(classes=model.classes).fit([])
    expected = precision_recall_fscore_support(
        binarizer.transform(labels), binarizer.transform(predicted), zero_division=0
    )
    report = model.report(PROSE, labels, verbose=0)
    ours = [list(figures.values()) for figures in report.values()]
    np.testing.assert_allclose(np.transpose(ours), expected, atol=1e-6)
    assert model.evaluate(PROSE, labels, verbose=0)["f1"] == pytest.approx(
        np.mean(expected[2]), abs=1e-5
    )

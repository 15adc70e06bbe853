import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from keras_llm import serving, training
from keras_llm.checkpoints import load_hugging_face
from keras_llm.models import BertBackbone
from keras_llm.tasks import TextEmbedder, ZeroShotClassifier
from keras_llm.tokenizers import WordPieceTokenizer

WORDS = ["good", "bad", "film", "very", "a", "the", "好", "坏"]
TOKENIZER = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
TEXTS = ["a good film", "a bad film", "very good", "the very bad film", "好", "坏"]
LABELS = ["positive", "negative"] * 3
DESCRIPTIONS = {"negative": ["bad", "坏"], "positive": "good"}
SIZES = {
    "vocabulary_size": 13,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "max_sequence_length": 12,
    "dropout": 0.0,
}


def classifier(strategy=None, backbone=BertBackbone, normalize=True, **kwargs):
    keras.utils.set_random_seed(0)
    with (strategy or tf.distribute.get_strategy()).scope():
        embedder = TextEmbedder(backbone(**SIZES), TOKENIZER, normalize=normalize)
        model = ZeroShotClassifier(embedder, **({"descriptions": DESCRIPTIONS} | kwargs))
        model.compile(training.AdamW(0.01))
    return model


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def probabilities(model, texts=TEXTS, **kwargs):
    return model.predict(texts, verbose=0, **kwargs)["probabilities"]


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_the_nearest_mean_of_descriptions_in_templates():
    model = classifier(templates=["a {} film", "very {}"], scale=10.0)
    embed = model.embedder.predict
    bad = unit(embed(["a bad film", "very bad", "a 坏 film", "very 坏"])).mean(axis=0)
    good = unit(embed(["a good film", "very good"])).mean(axis=0)
    cosines = unit(embed(TEXTS)) @ unit(np.stack([bad, good])).T
    predicted = model.predict(TEXTS, verbose=0)
    np.testing.assert_allclose(predicted["probabilities"], softmax(10 * cosines), atol=1e-5)
    names = np.array(["negative", "positive"])[cosines.argmax(axis=1)]
    assert predicted["label"].tolist() == names.tolist()


def test_names_describe_themselves_and_vectors_of_any_length_serve():
    by_names = classifier(descriptions=["bad", "good"])
    by_texts = classifier(descriptions={"bad": "bad", "good": ["good"]}, normalize=False)
    assert by_names.classes == ["bad", "good"]
    np.testing.assert_allclose(probabilities(by_names), probabilities(by_texts), atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 1.0, 7.5])
def test_adapt_takes_the_mean_of_examples_and_descriptions(weight):
    model = classifier()
    described = model.prototypes.vectors.numpy()
    before = [w.numpy() for w in model.embedder.weights]
    for _ in range(2):  # the second time forgets the first
        model.adapt(TEXTS, LABELS, description_weight=weight)
    vectors, labels = unit(model.embedder.predict(TEXTS)), np.array(LABELS)
    for row, name in enumerate(model.classes):
        mean = weight * described[row] + vectors[labels == name].sum(axis=0)
        np.testing.assert_allclose(model.prototypes.vectors.numpy()[row], unit(mean), atol=1e-5)
    for a, b in zip(before, model.embedder.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_class_without_examples_keeps_its_description():
    model = classifier()
    described = model.prototypes.vectors.numpy()
    model.adapt(["a good film"], ["positive"])
    np.testing.assert_allclose(model.prototypes.vectors.numpy()[0], described[0], atol=1e-6)
    assert np.abs(model.prototypes.vectors.numpy()[1] - described[1]).max() > 1e-3
    with pytest.raises(ValueError, match=r"classes have no examples: \['negative'\]"):
        model.adapt(["a good film"], ["positive"], description_weight=0.0)
    with pytest.raises(ValueError, match="1 labels are not in classes"):
        model.adapt(["a good film"], ["fine"])


@pytest.mark.filterwarnings("error::UserWarning")  # of weights without gradients
def test_fit_trains_on_from_the_descriptions_and_stops_early():
    model = classifier()
    stop = keras.callbacks.EarlyStopping("loss", min_delta=1e-2, patience=2)
    start = model.evaluate(TEXTS, LABELS, verbose=0)
    history = model.fit(TEXTS, LABELS, batch_size=3, epochs=50, callbacks=[stop], verbose=0)
    end = model.evaluate(TEXTS, LABELS, verbose=0)
    assert end["accuracy"] == 1.0 and end["loss"] < start["loss"]
    assert len(history.epoch) < 50
    assert model.predict(["very good", "坏"], verbose=0)["label"].tolist() == LABELS[:2]


def test_one_and_two_replicas_train_alike_also_on_a_ragged_last_batch():
    weights = []
    for strategy in (tf.distribute.get_strategy(), training.strategy()):
        model = classifier(strategy)
        model.fit(TEXTS[:5], LABELS[:5], batch_size=4, verbose=0)
        weights.append(model.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_predictions_do_not_depend_on_the_batch():
    model = classifier()
    alone = np.concatenate([probabilities(model, [text]) for text in TEXTS[:2]])
    np.testing.assert_allclose(probabilities(model, batch_size=4)[:2], alone, atol=1e-5)


@pytest.mark.filterwarnings("error::UserWarning")  # of an optimizer that was not trained
def test_saved_loaded_and_served(tmp_path):
    model = classifier(templates=["a {} film"]).adapt(TEXTS, LABELS)
    model.calibrate(TEXTS, LABELS)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.descriptions == {"negative": ["bad", "坏"], "positive": ["good"]}
    np.testing.assert_array_equal(probabilities(loaded), probabilities(model))

    served = serving.check(serving.export(loaded, tmp_path / "served"), TEXTS)
    assert served["label"] == model.predict(TEXTS, verbose=0)["label"].tolist()
    np.testing.assert_allclose(served["probabilities"], probabilities(model), atol=1e-5)


def test_keras_hub_backbone_and_frozen_blocks_after_loading(tmp_path):
    model = classifier(backbone=keras_hub.models.BertBackbone)
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    training.freeze(model, num_blocks=1)
    model.compile(training.AdamW(0.05))
    before = [w.numpy() for w in model.backbone.weights if not w.trainable]
    model.fit(TEXTS, LABELS, epochs=20, verbose=0)
    after = [w.numpy() for w in model.backbone.weights if not w.trainable]
    assert len(before) > 10
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.evaluate(TEXTS, LABELS, verbose=0)["accuracy"] > 0.5


def test_minilm_knows_topics():
    embedder = TextEmbedder(*load_hugging_face("sentence-transformers/all-MiniLM-L6-v2"), 32)
    model = ZeroShotClassifier(embedder, ["sports", "cooking", "astronomy"], ["This is about {}."])
    texts = ["The striker scored twice.", "Whisk the eggs.", "Its moons orbit in nine days."]
    predicted = model.predict(texts, verbose=0)
    assert predicted["label"].tolist() == ["sports", "cooking", "astronomy"]
    assert predicted["probabilities"].max(axis=1).min() > 0.6


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"classes must be two or more different names"):
        classifier(descriptions={"good": "good"})
    with pytest.raises(ValueError, match="The class 'bad' has an empty description"):
        classifier(descriptions={"good": "good", "bad": ["bad", " "]})
    with pytest.raises(ValueError, match="The list of bad descriptions is empty"):
        classifier(descriptions={"good": "good", "bad": []})
    with pytest.raises(ValueError, match="The template 'a film' has no"):
        classifier(templates=["a film"])
    with pytest.raises(TypeError, match="templates, got the string"):
        classifier(templates="a {} film")
    with pytest.raises(TypeError, match=r"bad descriptions\[0\] is 3, not a string"):
        classifier(descriptions={"good": "good", "bad": [3]})

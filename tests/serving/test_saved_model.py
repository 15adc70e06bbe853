import threading
from types import SimpleNamespace

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from keras_llm import serving, training
from keras_llm.models import BertBackbone
from keras_llm.tasks import TextClassifier
from keras_llm.tokenizers import WordPieceTokenizer

TEXTS = ["A good film.", "坏电影！", "", "the 🙂 naïve  [MASK] \u0000 \ufffd", "good " * 500]


def classifier(strategy=None, dtype=None):
    keras.utils.set_random_seed(0)
    tokenizer = WordPieceTokenizer.train(["a good film", "the naïve film", "坏电影！"] * 3, 40)
    with (strategy or tf.distribute.get_strategy()).scope():
        sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "intermediate_dim": 64}
        size = tokenizer.vocabulary_size()
        backbone = BertBackbone(size, max_sequence_length=64, dtype=dtype, **sizes)
        model = TextClassifier(backbone, tokenizer, ["差", "good"])
        model.compile(training.AdamW(0.01))
    model.fit(["good film", "坏电影"] * 8, ["good", "差"] * 8, epochs=2, verbose=0)
    return model


@pytest.fixture(scope="module")
def model():
    return classifier()


def test_a_fresh_process_gives_the_same_numbers(tmp_path, replicas):
    model = classifier(replicas)
    version = serving.export(model, tmp_path / "model")
    served, expected = serving.check(version, TEXTS), model.predict(TEXTS, verbose=0)
    assert served["label"] == expected["label"].tolist()
    np.testing.assert_allclose(served["probabilities"], expected["probabilities"], atol=1e-6)


def test_the_loader_finds_what_tf_saved_model_load_hides(tmp_path, model):
    """A module that owns Keras layers loads in Python and not in a server: the known bug."""
    module = tf.Module()
    module.model = model
    serve = tf.function(model.serve, input_signature=[tf.TensorSpec([None], tf.string, "text")])
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": serve})
    tf.saved_model.load(str(tmp_path))
    with pytest.raises(RuntimeError, match="does not serve"):
        serving.check(tmp_path, TEXTS)


def test_bfloat16_model_serves_float32_probabilities(tmp_path):
    model = classifier(dtype="mixed_bfloat16")
    served = tf.saved_model.load(serving.export(model, tmp_path / "model"))
    outputs = served.signatures["serving_default"](text=tf.constant(TEXTS))
    assert {name: value.dtype for name, value in outputs.items()} == {
        "label": tf.string,
        "probabilities": tf.float32,
    }
    expected = model.predict(TEXTS, verbose=0)["probabilities"]
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-2)


def test_each_weight_is_stored_once(tmp_path, model):
    version = serving.export(model, tmp_path / "model")
    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    shapes = reader.get_variable_to_shape_map()
    del shapes["_CHECKPOINTABLE_OBJECT_GRAPH"]  # TensorFlow's own description
    assert sorted(map(tuple, shapes.values())) == sorted(tuple(v.shape) for v in model.variables)


def test_the_vocabulary_is_an_asset(tmp_path, model):
    version = serving.export(model, tmp_path / "model")
    lines = (version / "assets" / "vocab.txt").read_text("utf-8").splitlines()
    assert lines == model.preprocessor.tokenizer.get_vocabulary()


def test_a_tokenizer_of_another_kind_has_no_portable_form(tmp_path, model):
    tokenizer = keras_hub.tokenizers.WordPieceTokenizer(
        ["[PAD]", "[UNK]", "good"], oov_token="[UNK]"
    )
    other = SimpleNamespace(serve=model.serve, preprocessor=SimpleNamespace(tokenizer=tokenizer))
    with pytest.raises(TypeError, match="WordPieceTokenizer has no portable form"):
        serving.export(other, tmp_path / "model", portable=True)
    assert not (tmp_path / "model").exists()


def test_versions_only_grow_and_nothing_else_stays(tmp_path, model):
    (tmp_path / "model" / "7").mkdir(parents=True)
    assert serving.export(model, tmp_path / "model").name == "8"
    assert serving.export(model, tmp_path / "model").name == "9"
    assert {child.name for child in (tmp_path / "model").iterdir()} == {"7", "8", "9"}


def test_failed_export_leaves_nothing_behind(tmp_path, model, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        serving.export(model, tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


def test_a_path_that_is_a_file_and_a_model_that_cannot_serve(tmp_path, model):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError, match="is a file"):
        serving.export(model, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(TypeError, match="Sequential cannot be exported"):
        serving.export(keras.Sequential(), tmp_path / "other")


def test_requests_of_any_size_and_many_at_once(tmp_path, model):
    served = tf.saved_model.load(serving.export(model, tmp_path / "model"))
    answer = served.signatures["serving_default"]
    assert answer(text=tf.constant([], tf.string))["probabilities"].shape == (0, 2)
    alone = answer(text=tf.constant(["good film"]))["probabilities"].numpy()
    answers = [None] * 16

    def ask(i):
        answers[i] = answer(text=tf.constant(["good film"] * (i + 1)))["probabilities"].numpy()

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for many in answers:
        np.testing.assert_allclose(many, np.repeat(alone, len(many), axis=0), atol=1e-6)

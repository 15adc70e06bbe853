"""The file of an export, run by LiteRT, answers as the model does."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from served import CORPUS, TASKS, TEXTS, columns
from tokenizers import BertWordPieceTokenizer

from keras_llm import serving
from keras_llm.models import BertBackbone
from keras_llm.tasks import TextClassifier
from keras_llm.tokenizers import WordPieceTokenizer

LENGTH = 24
ON_DEVICES = ("classifier", "pair_classifier", "embedder", "tagger", "answerer")
WORDS = ["good", "bad", "a good film", "a bad film", "the bad one", "was good " * 20, ""]


def classifier(dtype=None):
    """A classifier with weights that are large enough to be stored in 8 bits."""
    keras.utils.set_random_seed(0)
    tokenizer = WordPieceTokenizer.train([*WORDS, "坏电影！"] * 3, 48)
    size = tokenizer.vocabulary_size()
    backbone = BertBackbone(size, 2, 2, 128, 512, max_sequence_length=LENGTH, dtype=dtype)
    return TextClassifier(backbone, tokenizer, ["差", "good"])


@pytest.fixture(scope="module")
def model():
    model = classifier()
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(["a good film", "the bad one"] * 16, ["good", "差"] * 16, epochs=3, verbose=0)
    return model


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory):
    place = tmp_path_factory.mktemp("litert")
    return {
        int8: serving.export_litert(model, place / str(int8), int8=int8) for int8 in (False, True)
    }


def ops(file):
    """The names of the ops of a file, by its schema."""
    names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    codes = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0).operatorCodes
    return {names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in codes}


def test_an_app_without_tensorflow_has_the_models_answers(model, folders):
    """From the folder alone: another tokenizer, padding by hand, names from the file of names."""
    folder = folders[False]
    tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"))
    tokenizer.enable_truncation(LENGTH)
    interpreter = Interpreter(str(folder / "model.tflite"))
    names = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    asked = set()
    texts = [*WORDS, "坏电影！"]
    expected = model.predict(texts, verbose=0)
    for text, label, probabilities in zip(texts, *expected.values(), strict=True):
        row = tokenizer.encode(text)
        length = 16 if len(row.ids) <= 16 else LENGTH
        row.pad(length)
        asked.add(length)
        answer = interpreter.get_signature_runner(f"tokens_{length}")(
            token_ids=np.array([row.ids], "int32"),
            padding_mask=np.array([row.attention_mask], bool),
            segment_ids=np.array([row.type_ids], "int32"),
        )
        np.testing.assert_allclose(answer["probabilities"][0], probabilities, atol=1e-5)
        assert names[answer["probabilities"][0].argmax()] == label
    assert asked == {16, LENGTH}


def test_inputs_and_outputs_have_the_names_of_the_signature(folders):
    interpreter = Interpreter(str(folders[True] / "model.tflite"))
    assert set(interpreter.get_signature_list()) == {"tokens_16", f"tokens_{LENGTH}"}
    for length in (16, LENGTH):
        run = interpreter.get_signature_runner(f"tokens_{length}")
        inputs = {
            name: (np.dtype(detail["dtype"]).name, detail["shape"].tolist())
            for name, detail in run.get_input_details().items()
        }
        assert inputs == {
            "token_ids": ("int32", [1, length]),
            "padding_mask": ("bool", [1, length]),
            "segment_ids": ("int32", [1, length]),
        }
        assert list(run.get_output_details()) == ["probabilities"]


def test_lengths_share_the_weights(model, folders, tmp_path):
    """Six lengths instead of two add the ops of their graphs, not a copy of the weights."""
    lengths = [24, 3, 8, 12, 16, 20, 20]
    folder = serving.export_litert(model, tmp_path / "phone", sequence_lengths=lengths)
    interpreter = Interpreter(str(folder / "model.tflite"))
    assert set(interpreter.get_signature_list()) == {f"tokens_{n}" for n in lengths}
    sizes = [(f / "model.tflite").stat().st_size for f in (folders[False], folder)]
    weights = sum(value.nbytes for value in model.get_weights())
    assert sizes[1] - sizes[0] < 0.2 * weights


def test_a_row_goes_to_the_shortest_signature_that_it_fits(model, folders, monkeypatch):
    asked = []

    class Watched(Interpreter):
        def get_signature_runner(self, name):
            run = super().get_signature_runner(name)
            return lambda **row: asked.append((name, row["token_ids"].shape)) or run(**row)

    monkeypatch.setattr("ai_edge_litert.interpreter.Interpreter", Watched)
    texts = ["good " * 14, "good " * 15, "", "good " * 100]  # and two tokens around each
    report = serving.check_litert(folders[False], model, texts)
    short, long = ("tokens_16", (1, 16)), (f"tokens_{LENGTH}", (1, LENGTH))
    assert asked == [short, long, short, long]
    assert report["max_difference"] < 1e-5


def test_8_bits_are_a_quarter_of_the_size_and_decide_the_same(model, folders):
    float32, int8 = (folders[int8] / "model.tflite" for int8 in (False, True))
    assert int8.stat().st_size < 0.35 * float32.stat().st_size
    report = serving.check_litert(folders[True], model, WORDS)
    assert report["agreement"] > 0.8
    assert 1e-5 < report["max_difference"] < 0.1
    assert serving.check_litert(folders[False], model, WORDS)["max_difference"] < 1e-5


def test_sizes_are_those_of_the_file_and_of_the_weights(model, folders):
    report = serving.check_litert(folders[False], model, WORDS)
    size = (folders[False] / "model.tflite").stat().st_size
    assert report["mebibytes"] * 2**20 == size
    weights = sum(value.nbytes for value in model.get_weights())
    assert report["float32_mebibytes"] * 2**20 == weights
    assert 0.95 < size / weights < 1.1


@pytest.mark.parametrize("name", ON_DEVICES)
def test_each_task_has_builtin_ops_alone_and_the_models_answers(tmp_path, name):
    keras.utils.set_random_seed(0)
    model = TASKS[name]()
    folder = serving.export_litert(model, tmp_path / "phone", sequence_lengths=[16, LENGTH])
    used = ops(folder / "model.tflite")
    assert "CUSTOM" not in used and "FULLY_CONNECTED" in used
    report = serving.check_litert(folder, model, columns(name))
    assert report["max_difference"] < 1e-5
    assert report.get("agreement", 1.0) == 1.0
    assert ("agreement" in report) == (name != "embedder")
    assert (report["rows"] > len(TEXTS)) == (name in ("tagger", "answerer"))  # windows
    labels = folder / "labels.txt"
    names = {
        "classifier": ["差", "good"],
        "pair_classifier": ["no", "yes"],
        "tagger": getattr(model, "tags", None),
    }
    assert (labels.read_text("utf-8").splitlines() if labels.exists() else None) == names.get(name)


# === Accuracy ===


def test_what_a_shorter_file_does_not_read_is_a_loss(model, tmp_path):
    """The file reads two tokens of a text: the rest is as if it were not there."""
    folder = serving.export_litert(model, tmp_path / "phone", sequence_lengths=[4])
    texts = ["good", "bad", "a film bad bad bad bad", "a film good good good good", "bad bad bad"]
    labels = model.predict(texts, verbose=0)["label"].tolist()
    cut = model.predict([" ".join(text.split()[:2]) for text in texts], verbose=0)["label"].tolist()
    accuracy = np.mean([a == b for a, b in zip(labels, cut, strict=True)])
    assert 0 < accuracy < 1
    report = serving.check_litert(folder, model, texts, labels)
    assert report["agreement"] == report["model_accuracy"] == 1.0
    assert report["accuracy"] == pytest.approx(accuracy)
    assert report["accuracy_loss"] == pytest.approx(1 - accuracy)


def test_accuracy_of_several_labels_is_that_of_evaluate(tmp_path):
    model = TASKS["classifier"](multi_label=True)
    folder = serving.export_litert(model, tmp_path / "phone")
    labels = [("good",), ("差",), ("差", "good"), (), ("差",), ("good",), ()]
    report = serving.check_litert(folder, model, WORDS, labels)
    expected = model.evaluate(WORDS, labels, verbose=0)["accuracy"]
    assert report["accuracy"] == pytest.approx(expected)
    assert report["model_accuracy"] == pytest.approx(expected)


# === Errors ===


@pytest.mark.parametrize("name", ["decoder", "translator"])
def test_models_that_write_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"cannot be exported for devices\. These tasks can: Text"):
        serving.export_litert(TASKS[name](), tmp_path / "phone")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [2, LENGTH + 1])
def test_a_length_that_the_model_does_not_read(model, tmp_path, length):
    with pytest.raises(ValueError, match=rf"at least 3 and at most 24, .* got \[{length}\]"):
        serving.export_litert(model, tmp_path / "phone", sequence_lengths=[8, length])
    assert not list(tmp_path.iterdir())


def test_no_lengths_and_no_list_of_them(model, tmp_path):
    with pytest.raises(ValueError, match="sequence_lengths is empty"):
        serving.export_litert(model, tmp_path / "phone", sequence_lengths=[])
    with pytest.raises(TypeError, match=r"must be a list, such as \[16\]; got 16"):
        serving.export_litert(model, tmp_path / "phone", sequence_lengths=16)


def test_a_model_in_bfloat16_is_refused(tmp_path):
    with pytest.raises(ValueError, match="computes in bfloat16, LiteRT in float32"):
        serving.export_litert(classifier(dtype="mixed_bfloat16"), tmp_path / "phone")


class Hashing(TextClassifier):
    """A task with an op that LiteRT does not have."""

    def serve_tokens(self, inputs):
        return {"hash": tf.bitwise.bitwise_and(inputs["token_ids"], 7)}


def test_an_op_that_only_tensorflow_has_is_named_and_nothing_is_left(tmp_path):
    tokenizer = WordPieceTokenizer.train(CORPUS, 50)
    backbone = BertBackbone(tokenizer.vocabulary_size(), 1, 2, 16, 32, max_sequence_length=LENGTH)
    model = Hashing(backbone, tokenizer, ["差", "good"])
    with pytest.raises(ValueError, match="LiteRT lacks ops of this model: BitwiseAnd"):
        serving.export_litert(model, tmp_path / "phone")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(model, folders):
    before = (folders[True] / "model.tflite").read_bytes()
    with pytest.raises(FileExistsError, match="not empty"):
        serving.export_litert(model, folders[True])
    assert (folders[True] / "model.tflite").read_bytes() == before


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ([], None, "list of texts is empty"),
        (["good"], ["good", "差"], "2 labels for 1 texts"),
        (["good"], ["fine"], r"knows \['差', 'good'\], not \['fine'\]"),
    ],
)
def test_texts_and_labels_are_checked(model, folders, texts, labels, message):
    with pytest.raises(ValueError, match=message):
        serving.check_litert(folders[True], model, texts, labels)


def test_columns_are_those_that_the_task_reads(model, folders):
    with pytest.raises(ValueError, match="TextClassifier reads text: pass a dict of these lists"):
        serving.check_litert(folders[True], model, columns("pair_classifier"))
    pairs = TASKS["pair_classifier"]()
    with pytest.raises(ValueError, match="TextPairClassifier reads text and text_pair: pass a"):
        serving.check_litert(folders[True], pairs, ["good"])


def test_labels_for_a_task_without_classes_of_texts(folders):
    for name in ("embedder", "tagger"):
        with pytest.raises(ValueError, match="has no labels of texts"):
            serving.check_litert(folders[True], TASKS[name](), ["good"], ["good"])


def test_the_extra_is_named_where_it_is_missing(model, folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ImportError, match=r"keras-llm\[litert\]"):
        serving.check_litert(folders[True], model, WORDS)

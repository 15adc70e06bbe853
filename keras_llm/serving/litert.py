"""A model on a device: one LiteRT file, without TensorFlow, numbers in and numbers out.

Notable:

- the file is made of the signature `tokens`, so that a phone cannot answer otherwise than a server;
- it takes one row of a fixed length: shapes that vary need ops that only TensorFlow has. So do
  strings: the app makes the tokens, and looks the names of classes up;
- int8 is of the weights alone. What flows between layers is quantized row by row while the file
  runs, so that there is nothing to calibrate.
"""

import contextlib
import re
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert_phase import ConverterError

from keras_llm.serving.saved_model import save_graphs
from keras_llm.serving.signatures import signatures
from keras_llm.storage import whole_folder
from keras_llm.tasks import (
    QuestionAnswerer,
    TextClassifier,
    TextEmbedder,
    TokenClassifier,
    ZeroShotClassifier,
)
from keras_llm.tasks.text_task import as_strings

FILE = "model.tflite"
TASKS = (TextClassifier, ZeroShotClassifier, TokenClassifier, QuestionAnswerer, TextEmbedder)


def export_litert(model, folder, *, sequence_length=None, int8=False):
    """Writes a model for phones and other devices, where LiteRT (TensorFlow Lite) runs it.

    The folder receives `model.tflite`; `labels.txt`, the names of classes or tags, one a line, in
    the order of their numbers; and the files of the tokenizer, such as `vocab.txt`. The file has
    the signature `tokens`. It takes what `serve_inputs` of the task gives, each of the shape (1,
    sequence_length), padded with the padding token, False or 0, and answers what `serve_tokens`
    does, without the strings.

    Args:
        model: A `TextClassifier`, `ZeroShotClassifier`, `TokenClassifier`, `QuestionAnswerer` or
            `TextEmbedder`.
        folder: Path of a new or empty folder.
        sequence_length: int, the tokens of a row; the time that an answer takes grows with it. By
            default the model's `sequence_length`, which is also the most.
        int8: bool, whether the large weights are stored in 8 bits instead of 32. `check_litert`
            says what that costs.

    Returns:
        The `pathlib.Path` of the folder.

    Raises:
        ValueError: another kind of model, such as one that writes texts; `sequence_length` is out
            of its range; the model does not compute in float32, or has an op that LiteRT lacks.
        FileExistsError: the folder holds something, or is a file.

    Example:
        >>> from keras_llm.models import BertBackbone
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine"])
        >>> model = TextClassifier(BertBackbone.tiny(6), tokenizer, ["negative", "positive"])
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = export_litert(model, f"{place}/phone", sequence_length=16, int8=True)
        ...     sorted(file.name for file in folder.iterdir())
        ['labels.txt', 'model.tflite', 'tokenizer_config.json', 'vocab.txt']
    """
    if not isinstance(model, TASKS):
        raise ValueError(
            f"{type(model).__name__} cannot be exported for devices. These tasks can: "
            f"{', '.join(task.__name__ for task in TASKS)}."
        )
    if (dtype := model.backbone.compute_dtype) != "float32":
        raise ValueError(
            f"The model computes in {dtype}, LiteRT in float32. Build it of a backbone with "
            'dtype="float32", and give it these weights: set_weights(model.get_weights()).'
        )
    longest = model.preprocessor.sequence_length
    length = longest if sequence_length is None else sequence_length
    if not 3 <= length <= longest:
        raise ValueError(
            f"sequence_length={length} must be at least 3 and at most {longest}, the model's."
        )
    with whole_folder(folder) as partial:
        (partial / FILE).write_bytes(_converted(model, length, int8))
        model.preprocessor.tokenizer.save(partial)
        if names := _names(model):
            (partial / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return Path(folder)


def check_litert(folder, model, texts, labels=None):
    """Runs the file of an export as a device does, and compares its answers with the model's.

    Args:
        folder: Path of the folder that `export_litert` has written.
        model: The model that was exported.
        texts: List of str; of a `QuestionAnswerer` a dict of lists, `question` and `context`.
        labels: List of the labels of the texts, as `evaluate` of a classifier takes them; or None.

    Returns:
        A dict of

        - `rows`: int, how many rows the file was asked; a long text of tags or answers has several;
        - `max_difference`: float, the greatest between its numbers and the model's for these rows;
        - `agreement`: float, the share of equal decisions: classes, tags, first and last tokens. A
          `TextEmbedder` has none;
        - with labels, `accuracy` and `model_accuracy`, floats, and `accuracy_loss`, their
          difference: what 8 bits and a shorter `sequence_length` cost together;
        - `milliseconds`: float, the median for a row on this machine;
        - `mebibytes` and `float32_mebibytes`: floats, of the file and of the model's weights.

    Raises:
        FileNotFoundError: there is no export.
        ValueError: no texts; labels that the model does not know, not as many as texts, or for a
            task without classes.
        TypeError: a single string, or a list of something else than strings.
        ImportError: the extra `[litert]` is missing.

    Example:
        >>> check_litert("no/such/folder", None, ["fine"])
        Traceback (most recent call last):
        FileNotFoundError: There is no model.tflite in no/such/folder.
    """
    runner = _runner(Path(folder) / FILE)
    columns = texts if isinstance(texts, dict) else {"text": as_strings(texts, "texts")}
    truth = None if labels is None else _truth(model, labels, len(columns["text"]))
    length = int(runner.get_input_details()["token_ids"]["shape"][1])
    rows = _rows(model, columns, length)
    answers, milliseconds = _answers(runner, rows)
    expected = _model_answers(model, rows, names=answers)
    report = {
        "rows": len(rows["token_ids"]),
        "max_difference": float(max(abs(answers[n] - expected[n]).max() for n in answers)),
    }
    if not isinstance(model, TextEmbedder):
        agrees = _decisions(model, answers) == _decisions(model, expected)
        report["agreement"] = float(np.mean(agrees))
    if labels is not None:
        report |= _accuracies(model, columns, answers, truth)
    return report | {
        "milliseconds": milliseconds,
        "mebibytes": (Path(folder) / FILE).stat().st_size / 2**20,
        "float32_mebibytes": 4 * model.count_params() / 2**20,
    }


# === Writing ===


def _converted(model, length, int8):
    """Returns the content of the file."""
    tokens = signatures(model)["tokens"]
    specs = [tf.TensorSpec([1, length], spec.dtype, spec.name) for spec in tokens.input_signature]

    def numbers(*inputs):
        answers = tokens.python_function(*inputs)
        return {name: value for name, value in answers.items() if value.dtype != tf.string}

    with tempfile.TemporaryDirectory() as saved:
        save_graphs(model, {"tokens": tf.function(numbers, input_signature=specs)}, Path(saved))
        converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=["tokens"])
        if int8:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        try:
            return converter.convert()
        except ConverterError as error:
            missing = ", ".join(re.findall(r"(?:TF Select|Custom) ops: (.+)", str(error)))
            raise ValueError(
                f"LiteRT lacks ops of this model: {missing or error}. Export it for a server."
            ) from error


def _names(model):
    """Returns the names of what the file gives numbers of."""
    return model.tags if isinstance(model, TokenClassifier) else getattr(model, "classes", [])


# === Checking ===


def _runner(file):
    """Loads the file; what is returned runs its signature `tokens`."""
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file.name} in {file.parent}.")
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError("LiteRT is missing: pip install 'keras-llm[litert]'.") from error
    return Interpreter(str(file)).get_signature_runner("tokens")


def _rows(model, columns, length):
    """Returns what the file reads, a dict of arrays (rows, length)."""
    tokenizer = model.preprocessor.tokenizer
    with _cut_at(model.preprocessor, length):
        inputs = model.serve_inputs(**{name: tf.constant(c) for name, c in columns.items()})
    return {
        name: np.pad(
            values,
            [(0, 0), (0, length - values.shape[1])],
            constant_values=tokenizer.pad_token_id if name == "token_ids" else 0,
        )
        for name, values in inputs.items()
    }


@contextlib.contextmanager
def _cut_at(preprocessor, length):
    """Lets a preprocessor cut texts, while the block runs, where the file does."""
    before, preprocessor.sequence_length = preprocessor.sequence_length, length
    try:
        yield
    finally:
        preprocessor.sequence_length = before


def _answers(runner, rows):
    """Asks the file row by row. Returns its answers and the milliseconds that one takes."""
    answers, seconds = [], []
    for i in range(len(rows["token_ids"])):
        row = {name: values[i : i + 1] for name, values in rows.items()}
        start = time.perf_counter()
        answers.append(runner(**row))
        seconds.append(time.perf_counter() - start)
    return _joined(answers), 1000 * statistics.median(seconds)


def _model_answers(model, rows, names):
    """Asks the model the same. Returns the answers that the file has too."""
    batches = tf.data.Dataset.from_tensor_slices(rows).batch(32)
    answers = _joined([model.serve_tokens(batch) for batch in batches])
    return {name: answers[name] for name in names}


def _accuracies(model, columns, answers, truth):
    """Returns those of the file and of the model, which may read more of a text."""
    rows = _rows(model, columns, model.preprocessor.sequence_length)
    expected = _model_answers(model, rows, names=answers)
    accuracy, model_accuracy = (
        float(np.mean(_decisions(model, given) == truth)) for given in (answers, expected)
    )
    return {
        "accuracy": accuracy,
        "model_accuracy": model_accuracy,
        "accuracy_loss": model_accuracy - accuracy,
    }


def _joined(batches):
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _decisions(model, answers):
    """Returns what follows: numbers of classes, tags or tokens; with `multi_label` yes and no."""
    return np.concatenate([_decided(model, answers[name]) for name in sorted(answers)])


def _decided(model, values):
    if values.dtype.kind == "i":
        return values[values >= 0]  # a row may have fewer words
    if getattr(model, "multi_label", False):
        return values >= model.threshold
    return values.argmax(axis=1)


def _truth(model, labels, count):
    """Returns what should be decided: the number of the class, or yes and no for each."""
    classes = list(getattr(model, "classes", []))
    if isinstance(model, TokenClassifier) or not classes:
        raise ValueError(f"{type(model).__name__} has no labels of texts: leave `labels` out.")
    if len(labels) != count:
        raise ValueError(f"There are {len(labels)} labels for {count} texts.")
    named = labels if model.multi_label else [[label] for label in labels]
    if unknown := {name for names in named for name in names} - set(classes):
        raise ValueError(f"The model knows {classes}, not {sorted(unknown)[:5]}.")
    truth = np.array([[name in names for name in classes] for names in named])
    return truth if model.multi_label else truth.argmax(axis=1)

"""A model on a device: one LiteRT file, without TensorFlow, numbers in and numbers out.

Notable:

- the file is made of the signature `tokens`, so that a phone cannot answer otherwise than a server;
- shapes that vary need ops that only TensorFlow has. So the file takes one row, and has a signature
  for each of some lengths; they share the weights, and a short text takes a short time;
- so do strings: the app makes the tokens, and looks the names of classes up;
- int8 is of the weights alone. What flows between layers is quantized row by row while the file
  runs, so that there is nothing to calibrate.
"""

import contextlib
import inspect
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
SIGNATURE = "tokens_"  # and the length of a row
TASKS = (TextClassifier, ZeroShotClassifier, TokenClassifier, QuestionAnswerer, TextEmbedder)


def export_litert(model, folder, *, sequence_lengths=None, int8=False):
    """Writes a model for phones and other devices, where LiteRT (TensorFlow Lite) runs it.

    The folder receives `model.tflite`; `labels.txt`, the names of classes or tags, one a line, in
    the order of their numbers; and the files of the tokenizer, such as `vocab.txt`. For each length
    of a row the file has a signature, such as `tokens_32`. It takes what `serve_inputs` of the task
    gives, each of the shape (1, 32), padded with the padding token, False or 0, and answers what
    `serve_tokens` does, without the strings. An app asks the shortest that its tokens fit.

    Args:
        model: A `TextClassifier`, `ZeroShotClassifier`, `TokenClassifier`, `QuestionAnswerer` or
            `TextEmbedder`.
        folder: Path of a new or empty folder.
        sequence_lengths: List of int, the tokens of a row; the time that an answer takes grows with
            them, the size of the file hardly with their number. By default 16, 32, 64 and so on
            up to the model's `sequence_length`, which is also the most.
        int8: bool, whether the large weights are stored in 8 bits instead of 32. `check_litert`
            says what that costs.

    Returns:
        The `pathlib.Path` of the folder.

    Raises:
        ValueError: another kind of model, such as one that writes texts; a length is out of its
            range, or there is none; the model does not compute in float32, or has an op that
            LiteRT lacks.
        TypeError: `sequence_lengths` is a single number.
        FileExistsError: the folder holds something, or is a file.

    Example:
        >>> from keras_llm.models import BertBackbone
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine"])
        >>> model = TextClassifier(BertBackbone.tiny(6), tokenizer, ["negative", "positive"])
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = export_litert(model, f"{place}/phone", sequence_lengths=[16], int8=True)
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
    lengths = _lengths(model.preprocessor.sequence_length, sequence_lengths)
    with whole_folder(folder) as partial:
        (partial / FILE).write_bytes(_converted(model, lengths, int8))
        model.preprocessor.tokenizer.save(partial)
        if names := _names(model):
            (partial / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return Path(folder)


def check_litert(folder, model, texts, labels=None):
    """Runs the file of an export as a device does, and compares its answers with the model's.

    Each row goes to the shortest signature that it fits, and the model reads the same tokens.

    Args:
        folder: Path of the folder that `export_litert` has written.
        model: The model that was exported.
        texts: List of str; of a task that reads several a dict of lists, such as `question` and
            `context` of a `QuestionAnswerer`.
        labels: List of the labels of the texts, as `evaluate` of a classifier takes them; or None.

    Returns:
        A dict of

        - `rows`: int, how many rows the file was asked; a long text of tags or answers has several;
        - `max_difference`: float, the greatest between its numbers and the model's for these rows;
        - `agreement`: float, the share of equal decisions: classes, tags, first and last tokens. A
          `TextEmbedder` has none;
        - with labels, `accuracy` and `model_accuracy`, floats, and `accuracy_loss`, their
          difference: what 8 bits and rows shorter than the model's cost together;
        - `milliseconds`: float, the median for a row on this machine;
        - `mebibytes` and `float32_mebibytes`: floats, of the file and of the model's weights.

    Raises:
        FileNotFoundError: there is no export.
        ValueError: no texts, or not those that the task reads; labels that the model does not know,
            not as many as texts, or for a task without classes.
        TypeError: a single string, or a list of something else than strings.
        ImportError: the extra `[litert]` is missing.

    Example:
        >>> check_litert("no/such/folder", None, ["fine"])
        Traceback (most recent call last):
        FileNotFoundError: There is no model.tflite in no/such/folder.
    """
    runners = _runners(Path(folder) / FILE)
    columns = _columns(model, texts)
    truth = None if labels is None else _truth(model, labels, len(columns["text"]))
    rows = _rows(model, columns, max(runners))
    answers, milliseconds = _answers(runners, rows)
    expected = _model_answers(model, rows, answers)
    report = {"rows": len(answers), "max_difference": _max_difference(answers, expected)}
    if not isinstance(model, TextEmbedder):
        agrees = _decisions(model, answers) == _decisions(model, expected)
        report["agreement"] = float(np.mean(agrees))
    if labels is not None:
        longest = model.preprocessor.sequence_length
        if max(runners) < longest:  # the model reads more of a text
            expected = _model_answers(model, _rows(model, columns, longest), answers)
        report |= _accuracies(model, answers, expected, truth)
    return report | {
        "milliseconds": milliseconds,
        "mebibytes": (Path(folder) / FILE).stat().st_size / 2**20,
        "float32_mebibytes": 4 * model.count_params() / 2**20,
    }


# === Writing ===


def _lengths(longest, lengths):
    """Returns the lengths of rows, ascending."""
    if lengths is None:
        lengths = [2**i for i in range(4, 32) if 2**i < longest] + [longest]
    if isinstance(lengths, int):
        raise TypeError(f"sequence_lengths must be a list, such as [{lengths}]; got {lengths}.")
    if not lengths:
        raise ValueError("sequence_lengths is empty: name one, or leave it out for the usual ones.")
    if wrong := [length for length in lengths if not 3 <= length <= longest]:
        raise ValueError(
            f"sequence_lengths must be at least 3 and at most {longest}, the model's; got {wrong}."
        )
    return sorted(set(lengths))


def _converted(model, lengths, int8):
    """Returns the content of the file."""
    tokens = signatures(model)["tokens"]

    def numbers(*inputs):
        answers = tokens.python_function(*inputs)
        return {name: value for name, value in answers.items() if value.dtype != tf.string}

    def of_length(length):
        inputs = tokens.input_signature
        specs = [tf.TensorSpec([1, length], spec.dtype, spec.name) for spec in inputs]
        return tf.function(numbers, input_signature=specs)

    functions = {f"{SIGNATURE}{length}": of_length(length) for length in lengths}
    with tempfile.TemporaryDirectory() as saved:
        save_graphs(model, functions, Path(saved))
        converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=list(functions))
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


def _runners(file):
    """Loads the file. Returns a dict from the lengths of a row, ascending, to what answers one."""
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file.name} in {file.parent}.")
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError("LiteRT is missing: pip install 'keras-llm[litert]'.") from error
    interpreter = Interpreter(str(file))
    names = interpreter.get_signature_list()
    lengths = sorted(int(name.removeprefix(SIGNATURE)) for name in names)
    return {length: interpreter.get_signature_runner(f"{SIGNATURE}{length}") for length in lengths}


def _columns(model, texts):
    """Returns lists of texts by their names in `serve`."""
    names = list(inspect.signature(model.serve).parameters)
    columns = texts if isinstance(texts, dict) else {"text": texts}
    if set(columns) != set(names):
        raise ValueError(
            f"{type(model).__name__} reads {' and '.join(names)}: pass a dict of these lists."
        )
    return {name: as_strings(values, "texts") for name, values in columns.items()}


def _rows(model, columns, length):
    """Returns what is read, a dict of arrays (rows, length)."""
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


def _answers(runners, rows):
    """Asks the file row by row. Returns a list of its answers and the milliseconds that one takes.

    Args:
        runners: as of `_runners`.
        rows: dict of arrays (rows, length), as long as the longest that the file takes.
    """
    answers, seconds = [], []
    for i, tokens in enumerate(rows["padding_mask"].sum(axis=1)):
        length = next(length for length in runners if tokens <= length)
        row = {name: values[i : i + 1, :length] for name, values in rows.items()}
        start = time.perf_counter()
        answers.append(runners[length](**row))
        seconds.append(time.perf_counter() - start)
    return answers, 1000 * statistics.median(seconds)


def _model_answers(model, rows, answers):
    """Asks the model the same. Returns what the file's answers should be, each as long as it is."""
    batches = [model.serve_tokens(b) for b in tf.data.Dataset.from_tensor_slices(rows).batch(32)]
    expected = {n: np.concatenate([batch[n] for batch in batches]) for n in answers[0]}
    return [
        {name: _cut(expected[name][i : i + 1], value.shape) for name, value in answer.items()}
        for i, answer in enumerate(answers)
    ]


def _cut(values, shape):
    return values[tuple(slice(size) for size in shape)]


def _max_difference(answers, expected):
    pairs = zip(answers, expected, strict=True)
    return float(max(abs(one[name] - other[name]).max() for one, other in pairs for name in one))


def _accuracies(model, answers, expected, truth):
    """Returns those of the file and of the model."""
    accuracy, model_accuracy = (
        float(np.mean(_decisions(model, given) == truth)) for given in (answers, expected)
    )
    return {
        "accuracy": accuracy,
        "model_accuracy": model_accuracy,
        "accuracy_loss": model_accuracy - accuracy,
    }


def _decisions(model, answers):
    """Returns what follows: numbers of classes, tags or tokens; with `multi_label` yes and no."""
    decided = [_decided(model, answer[name]) for answer in answers for name in sorted(answer)]
    return np.concatenate(decided)


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

"""Export: a SavedModel that takes strings, with the tokenizer inside, for TF Serving.

Notable: a graph that is saved through a `tf.Module` with Keras layers in it loads in Python and
fails in TF Serving ("Could not find variable"), and `model.export` stores each weight twice. What
is saved here holds the plain TensorFlow variables, once each, and the graphs that read them.
"""

import contextlib
import inspect
import os
import shutil
import tempfile
from pathlib import Path

import keras
import tensorflow as tf

import keras_llm.tasks  # noqa: F401  Keras finds the classes of saved models by it
from keras_llm.corpora.files import read_rows
from keras_llm.serving.signatures import signatures as all_signatures
from keras_llm.serving.warmup import write_warmup
from keras_llm.tokenizers.subword import SubwordTokenizer


def export(model, path, *, signatures="auto", warmup=(), version="next", portable=False):
    """Writes a version of a model for serving: strings in; names, numbers or texts out.

    The folder receives `1/`, `2/`, ... as TF Serving expects them. A version is written beside and
    renamed when it is whole, so a server that watches the folder never sees half a model. What it
    answers is described in `signatures`; `check` asks it.

    Args:
        model: A task such as `keras_llm.tasks.TextClassifier`, or a language model.
        path: Path of the model's folder, for example `"export/sentiment"`.
        signatures: List of names, such as `["serving_default", "tokens"]`; "auto" for all that the
            model has. `serving_default` is always among them.
        warmup: List of str, or a dict of lists where `serve` takes more than `text`: requests that
            TF Serving answers before it says that it is ready, so that the first user does not
            wait. Needs the extra `[serving]`.
        version: "next" for the number after the highest; or a higher one, int.
        portable: Whether to use TensorFlow's core ops alone, for where TensorFlow Text is not. The
            answers are the same; strings take longer to tokenize.

    Returns:
        The `pathlib.Path` of the new version.

    Raises:
        TypeError: the model has no `serve`; its tokenizer has no portable form.
        ValueError: the model has no such signature; the version is not higher than those there are;
            its SentencePiece model has no portable form.
        FileExistsError: the path exists as a file.
        ImportError: there are warm-up requests, but not the extra `[serving]`.

    Example:
        >>> from keras_llm.models import BertBackbone
        >>> from keras_llm.tasks import TextClassifier
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine"])
        >>> model = TextClassifier(BertBackbone.tiny(6), tokenizer, ["negative", "positive"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     version = export(model, f"{folder}/sentiment")
        ...     served = tf.saved_model.load(version).signatures["serving_default"]
        ...     sorted(served(text=tf.constant(["fine"])))
        ['label', 'probabilities']
    """
    path = Path(path)
    if not hasattr(model, "serve"):
        raise TypeError(
            f"{type(model).__name__} cannot be exported: it has no `serve`. Export a task such as "
            "keras_llm.tasks.TextClassifier."
        )
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file. An export is a folder: choose another path.")
    _check_version(path, version)
    with _portable(model.preprocessor.tokenizer) if portable else contextlib.nullcontext():
        functions = _chosen(all_signatures(model), signatures)
        path.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=path))
        try:
            save_graphs(model, functions, partial)
            if warmup:
                write_warmup(partial, path.name, warmup)
            _sync(partial)
            return _rename(partial, path, version)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def export_file(file, path, warmup=None, **options):
    """Exports a model that was saved: what `keras-llm export` does.

    Args:
        file: Path of a `.keras` file, or of the folder of a run of `finetune`.
        path: As in `export`.
        warmup: Path of a .jsonl, .csv or .parquet file with the columns that `serve` takes, such as
            `text`: the warm-up requests; or None.
        **options: `signatures`, `version` and `portable` of `export`.

    Returns:
        The `pathlib.Path` of the new version.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row of the requests lacks a column.
        TypeError, ValueError, FileExistsError, ImportError: as `export`.

    Example:
        >>> export_file("no/such/model.keras", "export/sentiment")
        Traceback (most recent call last):
        FileNotFoundError: There is no model at no/such/model.keras.
    """
    model = load_model(file)
    requests = (
        {} if warmup is None else _requests(warmup, inspect.signature(model.serve).parameters)
    )
    return export(model, path, warmup=requests, **options)


def load_model(file):
    """Loads a model that was saved.

    Args:
        file: Path of a `.keras` file, or of the folder of a run of `finetune`.

    Returns:
        The model, such as a `keras_llm.tasks.TextClassifier`.

    Raises:
        FileNotFoundError: there is no such file.

    Example:
        >>> load_model("no/such/model.keras")
        Traceback (most recent call last):
        FileNotFoundError: There is no model at no/such/model.keras.
    """
    file = Path(file)
    if file.is_dir():
        file = file / "model.keras"
    if not file.is_file():
        raise FileNotFoundError(f"There is no model at {file}.")
    return keras.models.load_model(file)


def _requests(file, names):
    """Reads requests, a dict of columns."""
    columns = {name: [] for name in names}
    for place, row in read_rows(file):
        for name, column in columns.items():
            if not isinstance(row.get(name), str):
                raise ValueError(f"{place}: a request needs the text {name!r}; it has {list(row)}.")
            column.append(row[name])
    return columns


def _check_version(path, version):
    highest = max(versions(path), default=0)
    if version != "next" and not (isinstance(version, int) and version > highest):
        raise ValueError(
            f'version={version!r} must be "next", or an integer above {highest}, the highest in '
            f"{path}: servers take the highest."
        )


def _chosen(functions, names):
    if names == "auto":
        return functions
    unknown = [name for name in names if name not in functions]
    if unknown:
        raise ValueError(
            f"There is no signature {unknown[0]!r}. This model has {', '.join(functions)}."
        )
    return {name: functions[name] for name in dict.fromkeys(["serving_default", *names])}


def _portable(tokenizer):
    if not isinstance(tokenizer, SubwordTokenizer):
        raise TypeError(
            f"{type(tokenizer).__name__} has no portable form. Use a tokenizer of "
            "keras_llm.tokenizers, or export without `portable`."
        )
    return tokenizer.portable()


def save_graphs(model, functions, folder):
    """Saves graphs with the variables they read, each once, and the files of the tokenizer.

    Args:
        model: the task that they belong to.
        functions: dict from the names of signatures to `tf.function`.
        folder: `pathlib.Path` of a folder.
    """
    module = tf.Module()
    seeds = model.sampler.variables if hasattr(model, "sampler") else []
    module.variables_of_the_model = [variable.value for variable in (*model.variables, *seeds)]
    module.tokenizer = tokenizer = model.preprocessor.tokenizer  # it may own lookup tables
    with tempfile.TemporaryDirectory() as files:
        tokenizer.save_assets(files)
        module.vocabulary = [tf.saved_model.Asset(str(file)) for file in Path(files).iterdir()]
        tf.saved_model.save(module, str(folder), signatures=functions)
    folder.chmod(0o755)  # mkdtemp's 0o700 would lock a server of another user out


def _sync(folder):
    """Waits until all files are on the disk."""
    for file in (p for p in folder.rglob("*") if p.is_file()):
        with open(file, "rb") as f:
            os.fsync(f.fileno())


def versions(path):
    """Returns the numbers of the versions in a model's folder."""
    path = Path(path)
    names = [child.name for child in path.iterdir()] if path.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def last_version(path):
    """Returns the last version in a model's folder; the path itself where it is a version."""
    numbers = versions(path)
    return Path(path, str(numbers[-1])) if numbers else Path(path)


def _rename(partial, path, version):
    """Renames to the version; the next one, where another process took that, to the next."""
    while True:
        number = max(versions(path), default=0) + 1 if version == "next" else version
        target = path / str(number)
        try:
            os.rename(partial, target)
            return target
        except OSError:
            if not target.exists() or version != "next":
                raise

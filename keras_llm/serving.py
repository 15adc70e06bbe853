"""Export: a SavedModel that takes strings, with the tokenizer inside, for TF Serving.

Notable: a graph that is saved through a `tf.Module` with Keras layers in it loads in Python and
fails in TF Serving ("Could not find variable"), and `model.export` stores each weight twice. What
is saved here holds the plain TensorFlow variables, once each, and the graph that reads them.
"""

import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf


def export(model, path):
    """Writes the next version of a model for serving: strings in, names and probabilities out.

    The folder receives `1/`, `2/`, ... as TF Serving expects them. A version is written beside and
    renamed when it is whole, so a server that watches the folder never sees half a model. The
    signature `serving_default` takes what the model's `serve` does, strings (batch,): `text`, or
    `question` and `context`. It returns what `serve` does: for a classifier `label`, string
    (batch,), and `probabilities`, float32 (batch, classes), for an embedder `embedding`, float32
    (batch, features).

    Args:
        model: A task such as `keras_llm.tasks.TextClassifier`.
        path: Path of the model's folder, for example `"export/sentiment"`.

    Returns:
        The `pathlib.Path` of the new version.

    Raises:
        TypeError: the model has no `serve`.
        FileExistsError: the path exists as a file.

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
    path.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=path))
    try:
        _save(model, partial)
        return _rename_to_next_version(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _save(model, folder):
    """Saves the graph of `serve` with the variables it reads."""
    module = tf.Module()
    seeds = model.sampler.variables if hasattr(model, "sampler") else []
    module.variables_of_the_model = [variable.value for variable in (*model.variables, *seeds)]
    module.tokenizer = model.preprocessor.tokenizer  # it may own lookup tables
    names = inspect.signature(model.serve).parameters
    inputs = [tf.TensorSpec([None], tf.string, name) for name in names]
    serve = tf.function(model.serve, input_signature=inputs)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    for file in (p for p in folder.rglob("*") if p.is_file()):
        with open(file, "rb") as f:
            os.fsync(f.fileno())
    folder.chmod(0o755)  # mkdtemp's 0o700 would lock a server of another user out


def _rename_to_next_version(partial, path):
    """Renames to the number after the highest; where another process took it, to the next."""
    while True:
        versions = [int(child.name) for child in path.iterdir() if child.name.isdecimal()]
        version = path / str(max(versions, default=0) + 1)
        try:
            os.rename(partial, version)
            return version
        except OSError:
            if not version.exists():
                raise


# What a server has: TensorFlow and the op libraries of TensorFlow Text, neither Keras nor this
# package. The V1 loader restores variables as TF Serving's does; `tf.saved_model.load` does not.
_SERVER = """
import importlib.util, json, pathlib, sys
import numpy as np
import tensorflow as tf

decode = np.vectorize(bytes.decode, otypes=[object])
text = pathlib.Path(importlib.util.find_spec("tensorflow_text").submodule_search_locations[0])
for name in ("keras", "keras_hub", "keras_llm", "tensorflow_text"):
    sys.modules[name] = None
for library in sorted(text.glob("core/pybinds/*.so")) + sorted(text.glob("python/ops/*.so")):
    tf.load_op_library(str(library))
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    model = tf.compat.v1.saved_model.load(session, ["serve"], sys.argv[1])
    signature = model.signature_def["serving_default"]
    outputs = {name: tensor.name for name, tensor in signature.outputs.items()}
    inputs = json.load(sys.stdin)
    feed = {signature.inputs[name].name: texts for name, texts in inputs.items()}
    served = session.run(outputs, feed)
print(json.dumps({
    name: (decode(values) if values.dtype == object else values).tolist()
    for name, values in served.items()
}))
"""


def check(version, texts):
    """Loads an export as TF Serving does and lets it answer texts.

    That is done in a fresh process, by TensorFlow's V1 loader, without Keras and without this
    package: what answers here answers in a server.

    Args:
        version: Path of a version, as `export` returns it.
        texts: List of str; or a dict of lists where `serve` takes more than `text`.

    Returns:
        What the signature returns, for a classifier a dict of `label`, a list of str, and
        `probabilities`, float32 (texts, classes).

    Raises:
        RuntimeError: the export does not load or does not answer; the message holds the end of
            what the process said.

    Example:
        >>> check("no/such/version", ["fine"])
        Traceback (most recent call last):
        RuntimeError: no/such/version does not serve. The loader said: ...
    """
    process = subprocess.run(
        [sys.executable, "-c", _SERVER, str(version)],
        input=json.dumps(texts if isinstance(texts, dict) else {"text": list(texts)}),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(f"{version} does not serve. The loader said: {process.stderr[-2000:]}")
    served = json.loads(process.stdout.splitlines()[-1])
    return {
        name: values if np.array(values).dtype.kind == "U" else np.array(values, "float32")
        for name, values in served.items()
    }

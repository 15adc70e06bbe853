"""What a server would say of an export: its signatures, its ops, its size and its answers."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tensorflow.core.protobuf import saved_model_pb2

from keras_llm.serving.saved_model import last_version
from keras_llm.serving.warmup import read_warmup

TOLERANCE = 1e-4  # batches of other shapes add numbers in another order

# The ops of TensorFlow Text that this package may use: TF Serving links them since 2.18, whose
# TensorFlow Text is 2.12.1. Later ones, such as `TFText>RoundRobinTrim`, only 2.20 links.
SERVED_TEXT_OPS = frozenset(
    {
        "FastWordpieceTokenizeWithOffsets",
        "NormalizeUTF8",
        "SentencepieceDetokenizeOp",
        "SentencepieceOp",
        "SentencepieceTokenizeOp",
        "SentencepieceTokenizeWithOffsetsOp",
    }
)


def check(path, texts=None, verbose=False):
    """Loads an export as TF Serving does and lets it answer.

    That is done in a fresh process, by TensorFlow's V1 loader, without Keras and without this
    package: what answers here answers in a server. The signatures are compared with each other.

    Args:
        path: Path of a version, as `export` returns it, or of a model's folder: its last version.
        texts: List of str; or a dict of lists where `serve` takes more than `text`. By default the
            warm-up requests.
        verbose: Whether to print signatures, ops, size, times and answers.

    Returns:
        What `serving_default` returns, for a classifier a dict of `label`, a list of str, and
        `probabilities`, float32 (texts, classes). Without any request an empty dict.

    Raises:
        RuntimeError: the export does not load or does not answer, or signatures differ; the
            message holds the end of what the process said.

    Example:
        >>> check("no/such/version", ["fine"])
        Traceback (most recent call last):
        RuntimeError: no/such/version does not serve. There is no saved_model.pb in it.
    """
    version = last_version(path)
    if texts is None:
        requests = read_warmup(version)
    else:
        requests = texts if isinstance(texts, dict) else {"text": list(texts)}
    ops = ops_of(version)
    report = _loaded(version, requests, sorted(ops))
    if foreign := set(report["other_ops"]) - SERVED_TEXT_OPS:
        raise RuntimeError(f"{version} needs ops that TF Serving does not link: {sorted(foreign)}.")
    if verbose:
        _print(version, report, requests)
    for name, difference in report.get("differences", {}).items():
        if difference > TOLERANCE:
            raise RuntimeError(
                f"{version}: the answers of {name} differ from those of serving_default by "
                f"{difference:.2g}."
            )
    return {
        name: values if np.array(values).dtype.kind == "U" else np.array(values, "float32")
        for name, values in report.get("answers", {}).items()
    }


def _loaded(version, requests, ops):
    asked = {
        "version": str(version),
        "libraries": text_libraries(),
        "requests": requests,
        "ops": ops,
    }
    process = subprocess.run(
        # -P: TensorFlow shall not find the files beside the loader by their names.
        [sys.executable, "-P", str(Path(__file__).with_name("loader.py"))],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(f"{version} does not serve. The loader said: {process.stderr[-2000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def text_libraries():
    """Returns the paths of TensorFlow Text's op libraries, list of str."""
    folder = importlib.util.find_spec("tensorflow_text").submodule_search_locations[0]
    return sorted(map(str, Path(folder, "python", "ops").glob("*.so")))


def needed_text_ops(version):
    """Lists the ops of TensorFlow Text that a server must have for an export.

    Args:
        version: Path of a version.

    Returns:
        List of str; TF Serving links all of them since 2.18.

    Raises:
        RuntimeError: there is no export.

    Example:
        >>> needed_text_ops("no/such/version")
        Traceback (most recent call last):
        RuntimeError: no/such/version does not serve. There is no saved_model.pb in it.
    """
    return sorted(ops_of(version) & SERVED_TEXT_OPS)


def ops_of(version):
    """Lists the ops of an export, those of its functions included.

    Args:
        version: Path of a version.

    Returns:
        Set of str.

    Raises:
        RuntimeError: there is no export.
    """
    nodes, functions = graph_of(version)
    return {node.op for node in nodes} - functions


def graph_of(version):
    """Reads the graph of an export.

    Args:
        version: Path of a version.

    Returns:
        List of `NodeDef`, those of the functions included, and the names of the functions, set of
        str.

    Raises:
        RuntimeError: there is no export.
    """
    file = Path(version) / "saved_model.pb"
    if not file.is_file():
        raise RuntimeError(f"{version} does not serve. There is no {file.name} in it.")
    graph = saved_model_pb2.SavedModel.FromString(file.read_bytes()).meta_graphs[0].graph_def
    functions = graph.library.function
    nodes = [*graph.node, *(node for function in functions for node in function.node_def)]
    return nodes, {function.signature.name for function in functions}


def _print(version, report, requests):
    """Shows what the loader found."""
    console = Console()
    size = sum(file.stat().st_size for file in version.rglob("*") if file.is_file())
    console.print(f"{version}: {size / 2**20:.1f} MiB, loaded in {report['load_seconds']:.1f} s")
    text_ops = ", ".join(report["other_ops"]) or "none: TensorFlow's own are enough"
    console.print(f"ops of TensorFlow Text: {text_ops}", highlight=False)
    table = Table("signature", "inputs", "outputs")
    for name, tensors in sorted(report["signatures"].items()):
        table.add_row(name, *map(_as_lines, tensors))
    console.print(table)
    if not requests:
        console.print("No warm-up requests to run.")
        return
    count = len(next(iter(requests.values())))
    console.print(f"{count} requests, answered the first time in {report['first_seconds']:.2f} s")
    for name, difference in report["differences"].items():
        console.print(f"{name}: differs from serving_default by {difference:.1g}")


def _as_lines(tensors):
    return "\n".join(
        f"{name}: {dtype} ({', '.join('any' if size is None else str(size) for size in shape)})"
        for name, (dtype, shape) in sorted(tensors.items())
    )

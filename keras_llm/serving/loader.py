"""Loads an export as TF Serving does, answers requests and compares the signatures.

Run by `check` in a process of its own, which has TensorFlow and the op libraries of TensorFlow
Text, but neither Keras nor this package: what answers here answers in a server. The V1 loader
restores variables as TF Serving's does; `tf.saved_model.load` does not.

Reads from its input a JSON object of `version`, a path; `ops`, what the export uses; `libraries`,
those of TensorFlow Text; and `requests`, from names of columns to lists of strings. Writes one with
the answers.
"""

import json
import sys
import time

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

HIDDEN = ("keras", "keras_hub", "keras_llm", "tensorflow_text")


def main():
    """Reads what is asked, and prints the answers."""
    asked = json.load(sys.stdin)
    for name in HIDDEN:
        sys.modules[name] = None
    other_ops = [op for op in asked["ops"] if op_def_registry.get(op) is None]
    for library in asked["libraries"]:
        tf.load_op_library(library)
    start = time.perf_counter()
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        model = tf.compat.v1.saved_model.load(session, ["serve"], asked["version"])
        report = {
            "other_ops": other_ops,
            "load_seconds": time.perf_counter() - start,
            "signatures": {
                name: [_described(signature.inputs), _described(signature.outputs)]
                for name, signature in model.signature_def.items()
                if not name.startswith("__")
            },
        }
        if asked["requests"]:
            report |= _answered(session, model.signature_def, asked["requests"])
    print(json.dumps(report))


def _described(tensors):
    return {
        name: [
            tf.as_dtype(info.dtype).name,
            [dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim],
        ]
        for name, info in tensors.items()
    }


def _answered(session, signatures, requests):
    """The answers of `serving_default`, and by how much those of the others differ."""

    def ask(name, inputs):
        signature = signatures[name]
        outputs = {key: tensor.name for key, tensor in signature.outputs.items()}
        return session.run(outputs, {signature.inputs[k].name: v for k, v in inputs.items()})

    texts = {name: np.array(column, object) for name, column in requests.items()}
    start = time.perf_counter()
    answers = ask("serving_default", texts)
    report = {"first_seconds": time.perf_counter() - start, "differences": {}}
    if _difference(answers, ask("serving_default", texts)) < 1e-3:  # it does not draw at random
        report["differences"] = _compared(ask, signatures, texts, answers)
    report["answers"] = {
        name: (_decoded(values) if values.dtype == object else values).tolist()
        for name, values in answers.items()
    }
    return report


def _compared(ask, signatures, texts, answers):
    """By how much other ways to ask differ from `serving_default`."""
    first = {name: values[:1] for name, values in answers.items()}
    alone = ask("serving_default", {name: column[:1] for name, column in texts.items()})
    differences = {}
    if all(first[name].shape == alone[name].shape for name in first):
        differences["the first alone"] = _difference(first, alone)
    if "examples" in signatures:
        rows = zip(*texts.values(), strict=True)
        examples = [_example(dict(zip(texts, row, strict=True))) for row in rows]
        others = ask("examples", {"examples": np.array(examples, object)})
        differences["examples"] = _difference(answers, others)
    if {"tokenize", "tokens"} <= set(signatures):
        others = ask("tokens", ask("tokenize", texts))
        same = {name: values for name, values in answers.items() if name in others}
        if same:
            differences["tokens"] = _difference(same, others)
    return differences


def _example(row):
    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
        for name, text in row.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _difference(answers, others):
    """The largest difference of numbers; 1 where texts differ."""
    return max(
        float(np.abs(values - others[name]).max(initial=0))
        if values.dtype != object
        else float(np.any(values != others[name]))
        for name, values in answers.items()
    )


_decoded = np.vectorize(lambda text: text.decode(errors="replace"), otypes=[object])

if __name__ == "__main__":
    main()

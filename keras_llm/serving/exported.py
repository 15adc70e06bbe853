"""An export that is loaded: its signatures, asked with lists and answering with arrays."""

import functools
import json

import numpy as np
import sentencepiece
import tensorflow as tf
import tensorflow_text  # noqa: F401  the ops of the tokenizers
from tokenizers import decoders

from keras_llm.serving.checking import graph_of
from keras_llm.serving.saved_model import last_version
from keras_llm.tokenizers import byte_pair, unigram, wordpiece


class Export:
    """An export that answers as in a server.

    Args:
        path: Path of a version, or of a model's folder: its last version.

    Raises:
        FileNotFoundError: there is no export.
        ValueError: it has no signature `serving_default`.
    """

    def __init__(self, path):
        self.version = last_version(path)
        if not (self.version / "saved_model.pb").is_file():
            raise FileNotFoundError(
                f"There is no export at {path}. `keras-llm export` writes one: a folder with "
                "versions, such as 1/saved_model.pb."
            )
        self.title = f"{self.version.resolve().parent.name}, version {self.version.name}"
        self._loaded = tf.saved_model.load(str(self.version))  # the signatures live as long as it
        self.signatures = self._loaded.signatures
        if "serving_default" not in self.signatures:
            raise ValueError(
                f"{self.version} has no signature serving_default, which `keras-llm export` always "
                f"writes; it has {', '.join(self.signatures) or 'none'}."
            )
        served = self.signatures["serving_default"]
        names = served.structured_input_signature[1]
        self.inputs = sorted(names, key=lambda name: name != "question")  # before its context
        self.outputs = dict(served.structured_outputs)

    def ask(self, columns, signature="serving_default"):
        """Asks a signature: a dict of lists to a dict of arrays, strings as str."""
        function = self.signatures[signature]
        specs = function.structured_input_signature[1]
        answer = function(**{k: tf.constant(v, specs[k].dtype) for k, v in columns.items()})
        return {name: _decoded(tensor.numpy()) for name, tensor in answer.items()}

    def first(self, texts):
        """Asks for one text of each input: a dict of the first of each output."""
        columns = {name: [text] for name, text in zip(self.inputs, texts, strict=True)}
        return {name: values[0] for name, values in self.ask(columns).items()}

    def tokenize(self, text):
        """The tokens that the model reads of a text: list of pairs of a str and an id."""
        answer = self.ask({self.inputs[0]: [text]}, "tokenize")
        ids = answer["token_ids"][answer["padding_mask"]].tolist()
        return [(self.tokens.get(number, ""), number) for number in ids]

    @functools.cached_property
    def tokens(self):
        """The tokens by their ids, from the tokenizer's files; empty where there are none."""
        assets = self.version / "assets"
        if (file := assets / wordpiece.VOCABULARY_FILE).is_file():
            return dict(enumerate(file.read_text("utf-8").split("\n")))
        if (file := assets / byte_pair.VOCABULARY_FILE).is_file():
            ids = json.loads(file.read_text("utf-8"))
            spelled = decoders.ByteLevel()
            return {number: spelled.decode([token]) for token, number in ids.items()}
        if (file := assets / unigram.MODEL_FILE).is_file():
            model = sentencepiece.SentencePieceProcessor(model_file=str(file))
            return {number: model.id_to_piece(number) for number in range(len(model))}
        return {}

    @functools.cached_property
    def classes(self):
        """The names of classes, which are a constant of the graph; numbers where it is unclear."""
        count = self.outputs["probabilities"].shape[1]
        nodes, _ = graph_of(self.version)
        constants = [
            tf.make_ndarray(node.attr["value"].tensor)
            for node in nodes
            if node.op == "Const" and node.attr["dtype"].type == tf.string.as_datatype_enum
        ]
        found = {tuple(_decoded(names)) for names in constants if names.shape == (count,)}
        return found.pop() if len(found) == 1 else tuple(f"class {i}" for i in range(count))


def _decoded(values):
    """Turns bytes into str, here and in arrays; leaves numbers as they are."""
    if values.dtype != object:
        return values
    texts = [text.decode(errors="replace") for text in values.ravel()]
    return np.array(texts, dtype=object).reshape(values.shape)

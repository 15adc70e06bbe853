"""Loads models in the layout of Hugging Face: `config.json` beside `model.safetensors`.

Notable:
- two tables say all: the names of the settings and the names of the layers, ours and theirs;
- a setting we do not have, and a tensor that is unknown, missing or of another shape, is an
  error that names it: nothing is dropped silently;
- neither `torch` nor `transformers` is needed; tensors are read one at a time.
"""

import json
import re
import warnings
from pathlib import Path

import numpy as np
from safetensors import safe_open

from keras_llm.models import BertBackbone, BertForPretraining

# Theirs: ours.
BERT_SETTINGS = {
    "vocab_size": "vocabulary_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "hidden_size": "hidden_dim",
    "intermediate_size": "intermediate_dim",
    "hidden_dropout_prob": "dropout",
    "max_position_embeddings": "max_sequence_length",
    "type_vocab_size": "num_segments",
}

# Theirs, with the one value that our BERT has. Absent from the file means this value.
BERT_FIXED_SETTINGS = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
    "is_decoder": False,
    "add_cross_attention": False,
}

# Ours: theirs.
BERT_LAYERS = {
    "token_embedding": "bert.embeddings.word_embeddings",
    "position_embedding": "bert.embeddings.position_embeddings",
    "segment_embedding": "bert.embeddings.token_type_embeddings",
    "embeddings_norm": "bert.embeddings.LayerNorm",
    "transformer_layer_{}/self_attention/query_dense": "bert.encoder.layer.{}.attention.self.query",
    "transformer_layer_{}/self_attention/key_dense": "bert.encoder.layer.{}.attention.self.key",
    "transformer_layer_{}/self_attention/value_dense": "bert.encoder.layer.{}.attention.self.value",
    "transformer_layer_{}/self_attention/output_dense": (
        "bert.encoder.layer.{}.attention.output.dense"
    ),
    "transformer_layer_{}/attention_norm": "bert.encoder.layer.{}.attention.output.LayerNorm",
    "transformer_layer_{}/feed_forward/intermediate_dense": (
        "bert.encoder.layer.{}.intermediate.dense"
    ),
    "transformer_layer_{}/feed_forward/output_dense": "bert.encoder.layer.{}.output.dense",
    "transformer_layer_{}/feed_forward_norm": "bert.encoder.layer.{}.output.LayerNorm",
    "pooled_dense": "bert.pooler.dense",
    "masked_lm_head": "cls.predictions",
    "masked_lm_head/dense": "cls.predictions.transform.dense",
    "masked_lm_head/layer_norm": "cls.predictions.transform.LayerNorm",
    "next_sentence_head/dense": "cls.seq_relationship",
}
VARIABLES = {
    "embeddings": "weight",
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
}

# Tensors that hold no weights of their own: counters, and copies of the tensors they are tied to.
BERT_BUFFERS = {"bert.embeddings.position_ids", "bert.embeddings.token_type_ids"}
BERT_COPIES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def load_hugging_face(folder, dtype=None):
    """Loads a BERT with both pretraining heads, as `transformers.BertForPreTraining` saves it.

    The next-sentence logits are swapped on the way: theirs has "follows" at index 0, ours at 1.

    Args:
        folder: path of the folder with `config.json` and `model.safetensors`.
        dtype: precision policy of the model, such as "mixed_bfloat16"; by default Keras' own.

    Returns:
        `keras_llm.models.BertForPretraining`. Its `backbone` alone serves for fine-tuning.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: a setting that our BERT does not have; tensors that are unknown, missing, of
            another shape, or that differ from the tensor they should be a copy of.

    Example:
        >>> load_hugging_face("no/such/folder")
        Traceback (most recent call last):
        ...
        FileNotFoundError: no/such/folder has no config.json...
    """
    settings = _read_settings(_find(folder, "config.json"))
    path = _find(folder, "model.safetensors")
    model = BertForPretraining(BertBackbone(**settings, dtype=dtype))
    with safe_open(path, framework="numpy") as file:
        _assign(model, file, path)
    return model


def _find(folder, name):
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {name}. Expected a folder with config.json and model.safetensors, as "
            "`transformers.BertForPreTraining.save_pretrained(folder)` writes it. A checkpoint in "
            "another format (pytorch_model.bin) must be saved again that way."
        )
    return path


def _read_settings(path):
    """Reads `config.json` into the arguments of `BertBackbone`."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for name, value in BERT_FIXED_SETTINGS.items():
        if config.get(name, value) != value:
            raise ValueError(
                f"{path}: the setting {name} is {config[name]!r}; this BERT has {value!r} only."
            )
    if missing := BERT_SETTINGS.keys() - config.keys():
        raise ValueError(f"{path} lacks the settings {sorted(missing)}; is it a BERT's?")
    if (
        config.get("attention_probs_dropout_prob", config["hidden_dropout_prob"])
        != (config["hidden_dropout_prob"])
    ):
        warnings.warn(
            f"{path}: attention_probs_dropout_prob is {config['attention_probs_dropout_prob']}, "
            f"but hidden_dropout_prob={config['hidden_dropout_prob']} will be used for both when "
            "training goes on.",
            stacklevel=3,
        )
    return {ours: config[theirs] for theirs, ours in BERT_SETTINGS.items()}


def _assign(model, file, path):
    """Fills the model's variables from an open file; what does not fit is an error, listed."""
    # Files that were converted from TensorFlow call the two weights of a norm gamma and beta.
    stored = {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        ): name
        for name in file.keys()  # noqa: SIM118 (not a dict)
    }
    variables = {_their_name(variable.path): variable for variable in model.weights}

    problems = [f"missing: {name}" for name in variables.keys() - stored.keys()]
    unknown = stored.keys() - variables.keys() - BERT_BUFFERS - BERT_COPIES.keys()
    problems += [f"unknown: {stored[name]}" for name in unknown]
    for name in variables.keys() & stored.keys():
        shape = tuple(file.get_slice(stored[name]).get_shape())
        expected = _their_shape(variables[name])
        if shape != expected:
            problems.append(f"shape {shape} instead of {expected}: {stored[name]}")
    if problems:
        raise ValueError(
            f"{path} does not hold the weights of a BertForPreTraining of its config.json:\n  "
            + "\n  ".join(sorted(problems))
        )
    for copy, original in BERT_COPIES.items():
        if copy in stored and not np.array_equal(
            file.get_tensor(stored[copy]), file.get_tensor(stored[original])
        ):
            raise ValueError(
                f"{path}: {copy} differs from {original}. The two are one in BERT; a model that "
                "was trained with the two apart cannot be loaded."
            )

    for name, variable in variables.items():
        tensor = file.get_tensor(stored[name])
        if name.startswith("cls.seq_relationship"):
            tensor = tensor[::-1]  # theirs: (follows, random); ours: (random, follows)
        variable.assign(tensor.T if _is_kernel(variable) else tensor)


def _their_name(path):
    """Translates a variable's path: `pooled_dense/kernel` to `bert.pooler.dense.weight`."""
    layer, variable = path.rsplit("/", 1)
    number = re.search(r"transformer_layer_(\d+)", layer)
    number = number.group(1) if number else ""
    layer = layer.replace(f"transformer_layer_{number}", "transformer_layer_{}")
    return f"{BERT_LAYERS[layer].format(number)}.{VARIABLES[variable]}"


def _their_shape(variable):
    return tuple(reversed(variable.shape)) if _is_kernel(variable) else tuple(variable.shape)


def _is_kernel(variable):
    """Kernels are (inputs, outputs) with us, (outputs, inputs) with them."""
    return variable.path.endswith("/kernel")

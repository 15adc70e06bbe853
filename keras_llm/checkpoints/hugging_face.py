"""Loads and saves models in the layout of Hugging Face: a folder that `transformers` reads.

Notable:
- the folder holds `config.json`, `model.safetensors` (or shards of it) and the tokenizer's files;
- what differs between families is in their tables, `keras_llm.checkpoints.family.Family`;
- a setting we do not have, and a tensor that is unknown, missing or of another shape, is an
  error that names it: nothing is dropped silently;
- neither `torch` nor `transformers` is needed; tensors are read one at a time.
"""

import json
import re
import warnings
from fnmatch import fnmatch
from pathlib import Path

import keras
import numpy as np

from keras_llm.checkpoints.bert import BERT
from keras_llm.checkpoints.distilbert import DISTILBERT
from keras_llm.checkpoints.electra import ELECTRA
from keras_llm.checkpoints.gpt2 import GPT2
from keras_llm.checkpoints.llama import LLAMA
from keras_llm.checkpoints.published import PUBLISHED, published_folder
from keras_llm.checkpoints.roberta import ROBERTA
from keras_llm.checkpoints.t5 import T5
from keras_llm.checkpoints.tensors import open_tensors, write_tensors
from keras_llm.checkpoints.xlnet import XLNET
from keras_llm.storage import whole_folder

FAMILIES = {
    family.model_type: family
    for family in (BERT, DISTILBERT, ELECTRA, GPT2, LLAMA, ROBERTA, T5, XLNET)
}

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors"]

# Files that were converted from TensorFlow call the two weights of a norm so.
OLD_NAMES = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}


def load_hugging_face(folder_or_hub_name, cls=None, dtype=None):
    """Loads a published model and its tokenizer.

    Args:
        folder_or_hub_name: str or Path: a folder with `config.json` and `model.safetensors`, or
            else a name on the Hugging Face Hub, such as "google-bert/bert-base-uncased", which is
            fetched with `huggingface_hub`; a name of `available()` comes from the package index.
        cls: class of the model. By default the family's backbone; heads that the file has beside
            are then not read. A class that is made of the backbone, such as
            `models.BertForPretraining`, has heads, and the file must have them too.
        dtype: precision policy of the model, such as "mixed_bfloat16"; by default Keras' own.

    Returns:
        The pair of model and tokenizer; the tokenizer is None where the folder has no file of one.

    Raises:
        FileNotFoundError: there is no such folder, or a file is missing in it.
        ModuleNotFoundError: a name on the hub is given, and `huggingface_hub` is not installed.
        ValueError: a family, class or setting that we do not have; tensors that are unknown,
            missing, of another shape, or that differ from the tensor they should be a copy of.

    Example:
        >>> load_hugging_face("no/such/folder")
        Traceback (most recent call last):
        ...
        FileNotFoundError: There is no folder no/such/folder...
    """
    folder = _find_folder(folder_or_hub_name)
    config = _read_config(folder)
    family = _family(config.get("model_type"), f"{folder} holds")
    cls = cls or family.backbone
    if cls not in family.models:
        raise ValueError(
            f"{folder} holds a model of the family {family.model_type!r}, which can be loaded as "
            f"{_names(family.models)}, not as {cls.__name__}."
        )
    model = family.backbone(**_read_settings(family, config, folder), dtype=dtype)
    if cls is not family.backbone:
        model = cls(model)
    with open_tensors(folder) as tensors:
        _assign(family, model, tensors, folder)
    has_tokenizer = any((folder / file).is_file() for file in family.tokenizer_files)
    return model, family.load_tokenizer(folder) if has_tokenizer else None


def save_hugging_face(model, folder, tokenizer=None, max_shard_size=5 * 10**9):
    """Writes a model, and its tokenizer, as a folder that `transformers` loads.

    The folder appears when it is whole: it is written beside and renamed.

    Args:
        model: a model that `load_hugging_face` can load, such as `models.BertBackbone`.
        folder: str or Path, new or empty.
        tokenizer: the model's tokenizer, or None.
        max_shard_size: int, bytes of a file of weights; what is larger becomes several files.

    Raises:
        FileExistsError: there is something in the folder already.
        ValueError: the model is of no family that is published; the tokenizer does not fit.

    Example:
        >>> import tempfile
        >>> from keras_llm.models import BertBackbone
        >>> backbone = BertBackbone.tiny(vocabulary_size=100)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_hugging_face(backbone, f"{folder}/bert")
        ...     copy, tokenizer = load_hugging_face(f"{folder}/bert")
        >>> copy.get_config()["hidden_dim"], tokenizer
        (128, None)
    """
    family = next((f for f in FAMILIES.values() if type(model) in f.models), None)
    if family is None:
        known = [cls for family in FAMILIES.values() for cls in family.models]
        raise ValueError(
            f"{type(model).__name__} has no layout of Hugging Face; these have: {_names(known)}. "
            "Of a task, save the backbone: `save_hugging_face(task.backbone, folder)`."
        )
    config = _write_settings(family, model, tokenizer)
    with whole_folder(folder) as partial:
        write_tensors(_tensors(family, model), partial, max_shard_size)
        _write_json(config, partial / "config.json")
        if tokenizer is not None:
            _save_tokenizer(family, tokenizer, model, partial)


# === Where a model is ===


def _find_folder(folder_or_hub_name):
    name, folder = str(folder_or_hub_name), Path(folder_or_hub_name)
    if folder.is_dir():
        return folder
    if name in PUBLISHED:
        return published_folder(name)
    if not HUB_NAME.fullmatch(name):
        raise FileNotFoundError(
            f"There is no folder {folder}. Expected a folder with config.json and "
            "model.safetensors, as `save_pretrained` of `transformers` writes it, or a name on the "
            'Hugging Face Hub, "owner/name".'
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModuleNotFoundError(
            f"There is no folder {folder}. To fetch it from the Hugging Face Hub, "
            "`pip install huggingface_hub`; or download its files and pass their folder."
        ) from error
    return Path(snapshot_download(name, allow_patterns=HUB_FILES))


def _family(model_type, what):
    if model_type not in FAMILIES:
        raise ValueError(
            f"{what} a model of the type {model_type!r}. These can be loaded: {sorted(FAMILIES)}."
        )
    return FAMILIES[model_type]


def _names(classes):
    return ", ".join(cls.__name__ for cls in classes)


# === Settings ===


def _read_config(folder):
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no config.json. Expected a folder with config.json and "
            "model.safetensors, as `save_pretrained` of `transformers` writes it."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _read_settings(family, config, folder):
    """Turns `config.json` into the arguments of the backbone."""
    path = folder / "config.json"
    config = {**family.defaults, **config}
    for name, value in family.fixed.items():
        if config.get(name, value) != value:
            raise ValueError(
                f"{path}: the setting {name} is {config[name]!r}; our {family.backbone.__name__} "
                f"has {value!r} only."
            )
    if missing := family.settings.keys() - config.keys():
        raise ValueError(f"{path} lacks the settings {sorted(missing)}.")
    for name, other in family.same.items():
        if config.get(name, config[other]) != config[other]:
            warnings.warn(
                f"{path}: {name} is {config[name]}, but {other}={config[other]} will be used for "
                "both when training goes on.",
                stacklevel=3,
            )
    settings = {ours: config[theirs] for theirs, ours in family.settings.items()}
    return {**settings, **family.read_settings(config)}


def _write_settings(family, model, tokenizer):
    """Turns the arguments of the backbone, as it is, into `config.json`."""
    backbone = getattr(model, "backbone", model)
    ours = backbone.get_config()
    config = {theirs: ours[name] for theirs, name in family.settings.items()}
    config |= {name: config[other] for name, other in family.same.items()}
    if tokenizer is not None:
        config |= {name: getattr(tokenizer, ours) for name, ours in family.token_ids.items()}
    for name, value in family.fixed.items():
        if config.setdefault(name, value) != value:
            raise ValueError(
                f"{name} is {config[name]!r} with this tokenizer, but models of the type "
                f"{family.model_type!r} are published with {value!r} only."
            )
    return {
        "architectures": [family.models[type(model)]],
        "model_type": family.model_type,
        "dtype": keras.backend.standardize_dtype(model.weights[0].dtype),
        **config,
        **family.write_settings(backbone),
    }


def _write_json(content, path):
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _save_tokenizer(family, tokenizer, model, folder):
    """Saves a tokenizer, and by which class of theirs it is to be read."""
    tokenizer.save(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    config["tokenizer_class"] = family.tokenizer_class
    limit = getattr(getattr(model, "backbone", model), "max_sequence_length", None)
    if limit:
        config["model_max_length"] = limit
    _write_json(config, path)


# === Tensors ===


def _tensors(family, model):
    """Yields what the model's file holds, one tensor after the other, as pairs (name, array)."""
    variables = {variable.path: variable for variable in model.weights}
    prefix = family.prefix if type(model) is family.backbone else ""
    for entry in family.tensors_of(model):
        arrays = [keras.ops.convert_to_numpy(variables[path]) for path in entry.ours]
        for name, array in zip(entry.theirs, _tuple(entry.write(*arrays)), strict=True):
            yield name.removeprefix(prefix), array


def _assign(family, model, tensors, folder):
    """Fills the model's variables from open files; what does not fit is an error, listed."""
    tensors = _by_their_names_with_heads(family, tensors)
    variables = {variable.path: variable for variable in model.weights}
    entries = family.tensors_of(model)
    shapes = _shapes(entries, variables)
    if family.fills_copies:
        for copy, original in family.copies.items():
            if copy in shapes and original in tensors:
                tensors.places.setdefault(copy, tensors.places[original])

    def is_left(name):
        is_unread_head = type(model) is family.backbone and family.is_head(name)
        return is_unread_head or any(fnmatch(name, pattern) for pattern in family.ignored)

    copies = {
        copy: original
        for copy, original in family.copies.items()
        if copy in tensors and copy not in shapes and not is_left(copy)
    }
    unknown = {name for name in tensors.names - shapes.keys() - copies.keys() if not is_left(name)}
    _check_tensors(
        shapes,
        tensors,
        unknown,
        f"{folder} does not hold the weights of a {family.models[type(model)]} of its config.json",
    )
    for copy, original in copies.items():
        if not np.array_equal(tensors.read(copy), tensors.read(original)):
            raise ValueError(
                f"{folder}: {copy} differs from {original}. The two are one in "
                f"{type(model).__name__}; a model that was trained with the two apart cannot be "
                "loaded."
            )

    for entry in entries:
        arrays = _tuple(entry.read(*map(tensors.read, entry.theirs)))
        for path, array in zip(entry.ours, arrays, strict=True):
            variables[path].assign(array)


def _by_their_names_with_heads(family, tensors):
    """Names tensors as in a file with heads, where the backbone's names have a prefix."""
    is_bare = not any(name.startswith(family.prefix) for name in tensors.names)

    def rename(name):
        for old, new in OLD_NAMES.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        return family.prefix + name if is_bare else name

    return tensors.renamed(rename)


def _shapes(entries, variables):
    """Says of each tensor what shape it must have."""
    shapes = {}
    for entry in entries:
        # Arrays of the variables' shapes without their memory, turned around as when saving.
        ours = [np.broadcast_to(np.float32(0), variables[path].shape) for path in entry.ours]
        theirs = _tuple(entry.write(*ours))
        shapes |= {name: a.shape for name, a in zip(entry.theirs, theirs, strict=True)}
    return shapes


def _check_tensors(shapes, tensors, unknown, what):
    """Raises ValueError with a list of all tensors that are missing, unknown or misshapen."""
    problems = [f"missing: {name}" for name in shapes if name not in tensors]
    problems += [f"unknown: {tensors.name_in_file(name)}" for name in unknown]
    problems += [
        f"shape {tensors.shape(name)} instead of {shape}: {tensors.name_in_file(name)}"
        for name, shape in shapes.items()
        if name in tensors and tensors.shape(name) != shape
    ]
    if problems:
        raise ValueError(f"{what}:\n  " + "\n  ".join(sorted(problems)))


def _tuple(arrays):
    return arrays if isinstance(arrays, tuple) else (arrays,)

"""What a family of models is called in its published files: settings, layers, tensors, tokenizer.

Notable:
- a family is two tables: their settings by ours, their layers by ours. What is no mere renaming (a
  transpose of more than two axes, parts fused in one tensor) is a `Tensor`, two small functions;
- the same tables read and write.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np

# What the variables of a layer are called, with us and with them.
KINDS = {
    "embeddings": "weight",
    "kernel": "weight",
    "scale": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
}


def _unchanged(*arrays):
    return arrays if len(arrays) > 1 else arrays[0]


@dataclass(frozen=True)
class Tensor:
    """One of their tensors, or several, and the variables of ours that hold the same numbers.

    `{}` in a name stands for the number of a layer: the entry is for all layers that the model has.

    Args:
        theirs: str, or tuple of str, names in the file, such as `"h.{}.attn.c_attn.weight"`.
        ours: str, or tuple of str, paths of variables, such as `"pooled_dense/kernel"`.
        read: function from their arrays to ours, a tuple where there are several.
        write: its inverse.

    Example:
        >>> reverse = lambda array: array[::-1]
        >>> entry = Tensor("head.{}.bias", "layer_{}/bias", read=reverse, write=reverse)
        >>> [each.theirs for each in entry.numbered({"layer_0/bias", "layer_1/bias"})]
        [('head.0.bias',), ('head.1.bias',)]
    """

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    read: Callable = _unchanged
    write: Callable = _unchanged

    def numbered(self, paths) -> Iterator["Tensor"]:
        """Gives the entry for each layer of a model, with the names as tuples.

        Args:
            paths: set of str, of the model's variables.

        Returns:
            Iterator of `Tensor`; of none where the model has no such variable.
        """
        theirs = self.theirs if isinstance(self.theirs, tuple) else (self.theirs,)
        ours = self.ours if isinstance(self.ours, tuple) else (self.ours,)
        numbers = count() if "{}" in ours[0] else range(1)
        for number in numbers:
            if ours[0].format(number) not in paths:
                return
            yield Tensor(
                tuple(name.format(number) for name in theirs),
                tuple(name.format(number) for name in ours),
                self.read,
                self.write,
            )


@dataclass(frozen=True)
class Family:
    """Where a family's published files and our models of it differ in words.

    Args:
        model_type: str, as in `config.json`.
        models: dict from our class to their `architectures`; the first is the backbone, the others
            are made of it: `cls(backbone)`.
        settings: dict from the names in `config.json` to arguments of the backbone.
        layers: dict from the names of their layers to the paths of ours; a tuple of ours where
            they keep several in one, side by side. `{}` stands for a layer's number.
        tensors: function of a backbone to a list of `Tensor`: what `layers` cannot say.
        prefix: str, what the names of the backbone's tensors begin with in a file with heads. What
            begins otherwise is a head.
        heads: tuple of str, what heads begin with where the backbone has no prefix.
        transposed: bool, whether their kernels are (outputs, inputs), as torch's `Linear` has them.
        fixed: dict from names in `config.json` to the one value that our model computes, which is
            also what absence means.
        defaults: dict from names in `settings` to what absence means; the others must be there.
        same: dict from names in `config.json` to others that we have one setting for: dropouts.
        read_settings: function from `config.json`, a dict, to more arguments of the backbone.
        write_settings: its inverse, function of a backbone to more of `config.json`.
        copies: dict from names of tensors to those that they repeat: tied weights.
        fills_copies: bool, whether a variable of ours that is a copy in a file that lacks it begins
            as what it repeats.
        ignored: tuple of patterns of tensors that hold nothing, or nothing that the backbone
            computes with.
        load_tokenizer: function from a folder to the tokenizer.
        tokenizer_files: tuple of str: where none of them is in the folder, there is no tokenizer.
        tokenizer_class: str, theirs.
        token_ids: dict from names in `config.json` to attributes of the tokenizer.

    Example:
        >>> from keras_llm.checkpoints.bert import BERT
        >>> BERT.settings["hidden_size"], BERT.layers["bert.pooler.dense"]
        ('hidden_dim', 'pooled_dense')
    """

    model_type: str
    models: dict
    settings: dict[str, str]
    layers: dict[str, str | tuple[str, ...]]
    load_tokenizer: Callable
    tokenizer_files: tuple[str, ...]
    tokenizer_class: str
    tensors: Callable = lambda backbone: []
    prefix: str = ""
    heads: tuple[str, ...] = ()
    transposed: bool = True
    fixed: dict = field(default_factory=dict)
    defaults: dict = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    read_settings: Callable = lambda config: {}
    write_settings: Callable = lambda backbone: {}
    copies: dict[str, str] = field(default_factory=dict)
    fills_copies: bool = False
    ignored: tuple[str, ...] = ()
    token_ids: dict[str, str] = field(default_factory=lambda: {"pad_token_id": "pad_token_id"})

    @property
    def backbone(self):
        """Our class of the backbone."""
        return next(iter(self.models))

    def tensors_of(self, model) -> list[Tensor]:
        """Lists what a file of this model holds.

        Args:
            model: one of the family's `models`.

        Returns:
            List of `Tensor`, with plain names, that covers each variable of the model once.

        Raises:
            TypeError: the model has a variable that the tables do not know.
        """
        paths = {variable.path for variable in model.weights}
        tables = [*self._tensors_of_layers(), *self.tensors(getattr(model, "backbone", model))]
        entries = [each for entry in tables for each in entry.numbered(paths)]
        covered = {path for entry in entries for path in entry.ours}
        if paths != covered:
            raise TypeError(
                f"{type(model).__name__} differs from what is published as {self.model_type!r}: "
                f"there is no name for {sorted(paths ^ covered)}."
            )
        return entries

    def is_head(self, name: str) -> bool:
        """Says whether a tensor belongs to a head, not to the backbone.

        Args:
            name: str, the tensor's name in a file with heads.

        Returns:
            bool.
        """
        return not name.startswith(self.prefix) or name.startswith(self.heads)

    def _tensors_of_layers(self):
        """Takes each layer's variables apart; those that a layer does not have fall away later."""
        for theirs, ours in self.layers.items():
            ours = ours if isinstance(ours, tuple) else (ours,)
            for kind, name in KINDS.items():
                transposed = self.transposed and kind == "kernel"
                yield Tensor(
                    f"{theirs}.{name}",
                    tuple(f"{path}/{kind}" for path in ours),
                    *_side_by_side(len(ours), transposed),
                )


def _side_by_side(parts, transposed):
    """Returns `read` and `write` of arrays that share the last axis of one, or its transpose."""

    def read(array):
        array = array.T if transposed else array
        return _unchanged(*np.split(array, parts, axis=-1))

    def write(*arrays):
        array = np.concatenate(arrays, axis=-1) if parts > 1 else arrays[0]
        return array.T if transposed else array

    return read, write

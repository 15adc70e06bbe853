"""Files of tensors in the safetensors format, whole or in shards, read one tensor at a time."""

import json
import os
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

WHOLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class Tensors:
    """The tensors of open files, by name; nothing is read before it is asked for.

    Args:
        places: dict from a tensor's name to the pair of the open file that has it and its name
            there.
    """

    def __init__(self, places):
        self.places = places

    def __contains__(self, name):
        return name in self.places

    @property
    def names(self) -> set[str]:
        """The names of all tensors."""
        return set(self.places)

    def name_in_file(self, name) -> str:
        """Returns what a tensor is called where it is stored."""
        _, stored = self.places[name]
        return stored

    def shape(self, name) -> tuple[int, ...]:
        """Returns a tensor's shape without reading it."""
        file, stored = self.places[name]
        return tuple(file.get_slice(stored).get_shape())

    def read(self, name) -> np.ndarray:
        """Reads a tensor."""
        file, stored = self.places[name]
        return file.get_tensor(stored)

    def renamed(self, rename) -> "Tensors":
        """Returns the same tensors by other names, which a function makes of the old ones."""
        return Tensors({rename(name): place for name, place in self.places.items()})


@contextmanager
def open_tensors(folder):
    """Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.

    Args:
        folder: Path.

    Yields:
        `Tensors`.

    Raises:
        FileNotFoundError: there is neither file, or a shard is missing.
    """
    files = [WHOLE_FILE]
    if not (folder / WHOLE_FILE).is_file() and (folder / INDEX_FILE).is_file():
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(missing)}. Weights in another format "
            "(pytorch_model.bin) must be saved again as safetensors, by `save_pretrained` of "
            "`transformers`."
        )
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(folder / file, "numpy")) for file in files]
        yield Tensors({name: (file, name) for file in opened for name in file.keys()})  # noqa: SIM118


def write_tensors(tensors: Iterable[tuple[str, np.ndarray]], folder, max_shard_size):
    """Writes tensors to one file, or to shards with an index where they are larger than one.

    Args:
        tensors: iterable of pairs (name, array); no more than a shard of it is held in memory.
        folder: Path of a folder that is there.
        max_shard_size: int, bytes of a file. A larger tensor gets a file of its own.
    """
    shards, shard, size, total = [], {}, 0, 0
    for name, array in tensors:
        if shard and size + array.nbytes > max_shard_size:
            shards.append(_write_shard(shard, folder, len(shards)))
            shard, size = {}, 0
        shard[name] = np.ascontiguousarray(array)  # of another array its memory would be written
        size, total = size + array.nbytes, total + array.nbytes
    shards.append(_write_shard(shard, folder, len(shards)))

    if len(shards) == 1:
        os.rename(folder / shards[0][0], folder / WHOLE_FILE)
        return
    weight_map = {}
    for number, (file, names) in enumerate(shards, start=1):
        final = f"model-{number:05}-of-{len(shards):05}.safetensors"
        os.rename(folder / file, folder / final)
        weight_map |= dict.fromkeys(names, final)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_shard(tensors, folder, number):
    file = f"shard-{number}"
    save_file(tensors, folder / file, metadata={"format": "pt"})  # transformers asks for the format
    return file, list(tensors)

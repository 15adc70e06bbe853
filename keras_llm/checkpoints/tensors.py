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


@contextmanager
def open_tensors(folder):
    """Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.

    Args:
        folder: Path.

    Yields:
        Dict from the name of a tensor to the open file that has it: `file.get_tensor(name)` reads
        it, `file.get_slice(name).get_shape()` only looks.

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
        yield {name: file for file in opened for name in file.keys()}  # noqa: SIM118 (no dict)


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

"""How the scripts here write the files that `keras_llm.corpora.bundled` reads."""

import json
import lzma
import os
from collections.abc import Iterable
from pathlib import Path

DATA = Path(__file__).parents[1] / "keras_llm" / "corpora" / "data"


def pack(records: Iterable[dict], name: str, **xz_options) -> None:
    """Writes one JSON object a line, compressed with xz, whole or not at all.

    Args:
        records: the objects.
        name: str, of the data set.
        **xz_options: of `lzma.compress`.
    """
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    target = DATA / f"{name}.jsonl.xz"
    beside = target.with_suffix(".partial")
    beside.write_bytes(lzma.compress(lines.encode(), **xz_options))
    os.replace(beside, target)

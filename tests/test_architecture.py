"""The house as `docs/architecture.md` describes it, checked on the sources."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_llm
from keras_llm import ROOMS

HOUSE = Path(keras_llm.__file__).parent
WITHOUT_TENSORFLOW = ("layers", "training", "models", "generation")


def sources(room):
    """The files of a room, which is a folder or a single file."""
    return sorted((HOUSE / room).rglob("*.py")) or [HOUSE / f"{room}.py"]


def dotted_names(node):
    """What an import, or a use of the lazy package, names: `keras_llm.corpora.load`, ..."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names):
            return [f"{module}.{alias.name}" for alias in names]
        case ast.Attribute(value=ast.Name(id="keras_llm"), attr=attribute):
            return [f"keras_llm.{attribute}"]
    return []


def later_rooms(source, room):
    """The rooms that a source in `room` uses although they do not stand before it."""
    names = [name for node in ast.walk(ast.parse(source)) for name in dotted_names(node)]
    used = {name.split(".")[1] for name in names if name.startswith("keras_llm.")}
    return used & set(ROOMS[ROOMS.index(room) + 1 :])


def run_on_import(node):
    """The nodes that run when a module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from run_on_import(child)


def imports_tensorflow(source):
    names = [name for node in run_on_import(ast.parse(source)) for name in dotted_names(node)]
    return any(name.split(".")[0] in ("tensorflow", "tensorflow_text") for name in names)


@pytest.mark.parametrize(
    "source",
    [
        "from keras_llm import tasks",
        "from keras_llm.tasks import TextClassifier",
        "from keras_llm.tasks.classification import TextClassifier",
        "import keras_llm.tasks.classification",
        "def build():\n    from keras_llm import layers, tasks",
        "import keras_llm\nmodel = keras_llm.tasks.TextClassifier()",
    ],
)
def test_the_check_of_rooms_finds_a_violation(source):
    assert later_rooms(source, "layers") == {"tasks"}
    assert later_rooms(source, "tasks") == later_rooms(source, "serving") == set()


def test_the_check_of_tensorflow_finds_a_violation():
    assert imports_tensorflow("import tensorflow as tf")
    assert imports_tensorflow("if True:\n    from tensorflow.data import Dataset")
    assert imports_tensorflow("class A:\n    import tensorflow_text")
    assert not imports_tensorflow("import keras\ndef f():\n    import tensorflow as tf")


def test_the_house_has_these_rooms_and_no_others():
    found = {
        path.stem
        for path in HOUSE.iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists())
        and not path.name.startswith("__")
    }
    assert found == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_before_it(room):
    for file in sources(room):
        assert not later_rooms(file.read_text(), room), file


@pytest.mark.parametrize("room", WITHOUT_TENSORFLOW)
def test_a_room_for_all_backends_does_not_import_tensorflow(room):
    for file in sources(room):
        assert not imports_tensorflow(file.read_text()), file


def test_rooms_for_all_backends_open_where_tensorflow_is_missing():
    code = "import sys; sys.modules.update(tensorflow=None, tensorflow_text=None)\n"
    code += "\n".join(f"import keras_llm.{room}" for room in WITHOUT_TENSORFLOW)
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def public_names(room):
    """The names in `__all__`; in a room of one file without it, what is defined there."""
    module = importlib.import_module(f"keras_llm.{room}")
    defined = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return {name: getattr(module, name) for name in getattr(module, "__all__", defined)}


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "cli"])
def test_public_names_have_a_docstring_with_an_example(room):
    names = public_names(room)
    assert names
    without = [name for name, value in names.items() if ">>>" not in (value.__doc__ or "")]
    assert not without


def test_the_page_describes_the_rooms_in_their_order():
    page = (HOUSE.parent / "docs" / "architecture.md").read_text()
    assert tuple(re.findall(r"^### `(\w+)`", page, flags=re.MULTILINE)) == ROOMS


def test_a_room_opens_when_it_is_first_used():
    code = "import keras_llm, sys; assert 'keras_llm.corpora' not in sys.modules; "
    code += "print(keras_llm.corpora.available()[0]); assert 'tensorflow' not in sys.modules"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout == "state_of_the_union\n", process.stderr


def test_an_unknown_room_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'corpus'"):
        keras_llm.corpus  # noqa: B018
    assert set(ROOMS) < set(dir(keras_llm))
    assert inspect.ismodule(keras_llm.layers)

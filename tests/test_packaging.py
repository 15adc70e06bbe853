import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import keras_llm

ROOT = Path(keras_llm.__file__).parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(lines):
    """From the lines `name==version # why` to {name: version}; everything else is an error."""
    found = {}
    for line in lines:
        requirement = line.partition("#")[0].strip()
        if requirement:
            name, version = re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)", requirement).groups()
            assert name not in found
            found[name] = version
    return found


def locked(file):
    return pins((ROOT / file).read_text().splitlines())


def test_pins_reads_nothing_but_pins():
    assert pins(["torch==2.13.0  # via keras-llm", "# why", ""]) == {"torch": "2.13.0"}


@pytest.mark.parametrize(
    "line",
    ["torch==2.13.0+cpu", "torch>=2", "--index-url x", "torch @ file:x", "./torch.whl", "-e ."],
)
def test_pins_refuses(line):
    with pytest.raises(AttributeError):
        pins([line])


@pytest.mark.parametrize("file", LOCKS)
def test_a_lock_names_no_address_and_no_path(file):
    assert locked(file)
    assert not re.search(r"[/\\@+]", (ROOT / file).read_text())


def test_the_lock_pins_what_the_project_needs():
    lock = locked("requirements.lock")
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)])


def test_the_lock_for_tests_adds_to_the_lock_and_changes_nothing():
    lock = locked("requirements-dev.lock")
    assert lock.items() > locked("requirements.lock").items()
    for extra in PROJECT["optional-dependencies"].values():
        for requirement in map(Requirement, extra):
            assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)])


def test_the_conda_environment_has_the_versions_of_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    options = [line for line in pip["pip"] if line.startswith("--")]
    assert options == ["--requirement requirements.lock", "--editable ."]
    named = pins(line for line in pip["pip"] if line not in options)
    assert {"tensorflow", "keras-nlp", "tensorflow-text", "matplotlib", "jupyter"} <= named.keys()
    lock = locked("requirements-dev.lock")
    lock["keras-nlp"] = lock["keras-hub"]  # the old name, of the same version, requires the new
    assert named.items() <= lock.items()
    python = next(line for line in conda if line.startswith("python"))
    assert Requirement(python).specifier == Requirement("x" + PROJECT["requires-python"]).specifier


def test_package_and_project_have_one_version():
    assert keras_llm.__version__ == PROJECT["version"]


def imported_packages(source):
    """The top-level names that a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


def test_what_the_package_imports_it_requires():
    files = (ROOT / "keras_llm").rglob("*.py")
    imported = {name for file in files for name in imported_packages(file.read_text())}
    foreign = imported - set(sys.stdlib_module_names) - {"keras_llm"}
    assert {"keras", "tensorflow"} <= foreign
    extras = PROJECT["optional-dependencies"]
    kinds = ("hub", "jax", "litert", "page", "serving")
    optional = [line for extra in kinds for line in extras[extra]]
    lines = PROJECT["dependencies"] + optional
    required = {canonicalize_name(Requirement(line).name) for line in lines}
    distributions = packages_distributions()
    for name in foreign:
        assert required & {canonicalize_name(owner) for owner in distributions[name]}, name

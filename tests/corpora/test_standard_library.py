import ast
import json.decoder
import sysconfig
from pathlib import Path

import pytest

from keras_llm import corpora


def test_modules_as_they_stand():
    modules = {d.metadata["module"]: d.text for d in corpora.load("python_standard_library")}
    assert modules["json/decoder.py"] == Path(json.decoder.__file__).read_text("utf-8").strip()
    assert {"argparse.py", "asyncio/tasks.py", "collections/__init__.py"} < modules.keys()
    assert not any("test" in name.split("/") or "site-packages" in name for name in modules)
    assert "keyword.py" not in modules
    assert len(modules) > 400
    for source in list(modules.values())[::10]:
        ast.parse(source)


def test_python_without_its_sources(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="has no source files"):
        list(corpora.load("python_standard_library"))

import json

import keras
import pytest
import tensorflow as tf

from keras_llm import training


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "metrics.json"
    training.write_json(path, {"好": [1, 2.5]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"好": [1, 2.5]}
    with pytest.raises(TypeError):
        training.write_json(path, {"accuracy": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"好": [1, 2.5]}


def test_versions_are_those_that_are_imported():
    versions = training.versions()
    assert versions["keras"] == keras.__version__
    assert versions["tensorflow"] == tf.__version__

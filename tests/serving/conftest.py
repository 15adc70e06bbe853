"""The exports that the tests ask, made once each."""

import keras
import pytest
from served import TASKS

from keras_llm import serving


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            keras.utils.set_random_seed(0)
            model = TASKS[name]()
            made[name] = model, serving.export(model, tmp_path_factory.mktemp(name))
        return made[name]

    return get

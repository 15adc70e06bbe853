"""The layers and models run where TensorFlow is not installed, and give the same numbers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import battery
import keras
import numpy as np
import pytest

from keras_llm.models import BertBackbone, BertForPretraining

pytest.importorskip("jax")
TESTS = Path(__file__).parents[1]

BLOCK_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_text"] = None  # importing them fails
"""

PREDICT = """
import sys
import keras, numpy as np
import keras_llm.models
folder = sys.argv[1]
inputs = dict(np.load(f"{folder}/inputs.npz"))
outputs = keras.models.load_model(f"{folder}/model.keras")(inputs)
np.savez(f"{folder}/jax.npz", **{name: np.asarray(array) for name, array in outputs.items()})
"""


@pytest.fixture
def run_under_jax(tmp_path):
    """Runs Python with Keras on JAX and TensorFlow out of reach; returns what it prints."""
    (tmp_path / "sitecustomize.py").write_text(BLOCK_TENSORFLOW)

    def run(*arguments):
        path = os.pathsep.join(map(str, (tmp_path, TESTS.parent, TESTS)))
        environment = {"KERAS_BACKEND": "jax", "PYTHONPATH": path}
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # small things: compiling takes longest
        process = subprocess.run(
            [sys.executable, *arguments],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stdout
        return process.stdout

    return run


def test_same_numbers_from_the_same_file(run_under_jax, tmp_path):
    rng = np.random.default_rng(0)
    model = BertForPretraining(BertBackbone(30, 2, 3, 12, 20, max_sequence_length=10))
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    inputs = {
        "token_ids": rng.integers(0, 30, (3, 8)),
        "segment_ids": rng.integers(0, 2, (3, 8)),
        "padding_mask": np.arange(8) < [[8], [5], [0]],
        "mask_positions": rng.integers(0, 5, (3, 4)),
    }
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "inputs.npz", **inputs)
    run_under_jax("-c", PREDICT, str(tmp_path))
    expected = battery.numpy(model(inputs))
    assert keras.backend.backend() == "tensorflow"
    battery.assert_close(dict(np.load(tmp_path / "jax.npz")), expected, 1e-4)


def test_tests_of_layers_and_models_pass(run_under_jax):
    names = ("bert", "encoder", "transformer", "t5", "decoder", "gpt2", "llama", "xlnet")
    models = [TESTS / "models" / f"test_{name}.py" for name in names]
    rooms = [TESTS / "layers", *models, TESTS / "test_generation.py"]
    options = ["-q", "-rN", "--noconftest", "-p", "no:cacheprovider"]
    essential = (
        "(formula or cached or changes_nothing or tied or test_layer_battery)"
        " and not float16 and not bfloat16"
    )
    report = run_under_jax("-m", "pytest", *options, "-k", essential, *rooms)
    assert int(re.search(r"(\d+) passed", report).group(1)) > 60, report

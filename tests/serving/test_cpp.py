"""The loader that TF Serving uses, in C++, gives the numbers that Python gives."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from served import TEXTS, columns

from keras_llm import serving
from keras_llm.serving.checking import text_libraries

SOURCE = Path(__file__).parent / "cpp" / "serve.cc"

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler, g++")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """`serve.cc`, built against what the pip package of TensorFlow ships."""
    home = Path(tf.__file__).parent
    binary = tmp_path_factory.mktemp("cpp") / "serve"
    command = ["g++", "-std=c++17", "-O0", "-w", *tf.sysconfig.get_compile_flags(), str(SOURCE)]
    command += ["-o", str(binary), f"-L{home}", "-l:libtensorflow_cc.so.2"]
    command += ["-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{home}"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    return binary


def ask(program, version, columns, libraries=None):
    """What `serving_default` answers, from output names to arrays without a shape."""
    libraries = ":".join(text_libraries() if libraries is None else libraries)
    arguments = [
        f"{name}=" + "".join(text.encode().hex() + "," for text in texts)
        for name, texts in columns.items()
    ]
    command = [str(program), str(version), "serving_default", libraries, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr)
    return {
        line.split(" ")[0]: [_value(word) for word in line.split(" ")[1:]]
        for line in run.stdout.splitlines()
    }


def _value(word):
    return bytes.fromhex(word[1:]).decode() if word.startswith("x") else float(word)


@pytest.mark.parametrize(
    "name", ["classifier", "pair_classifier", "answerer", "tagger", "summarizer", "decoder"]
)
def test_cpp_answers_as_python_does(program, exports, name):
    _, version = exports(name)
    served = tf.saved_model.load(version).signatures["serving_default"]
    expected = served(**{key: tf.constant(texts) for key, texts in columns(name).items()})
    answers = ask(program, version, columns(name))
    assert set(answers) == set(expected)
    for key, tensor in expected.items():
        values = tensor.numpy().ravel()
        if tensor.dtype == tf.string:
            assert answers[key] == [value.decode() for value in values]
        else:
            np.testing.assert_allclose(answers[key], values, atol=1e-5)


def test_without_the_ops_of_tensorflow_text_it_does_not_load(program, exports):
    _, version = exports("classifier")
    with pytest.raises(RuntimeError, match="Op type not registered"):
        ask(program, version, {"text": TEXTS}, libraries=[])


@pytest.mark.parametrize(
    "name",
    ["classifier", "summarizer", "decoder", "pair_classifier"],  # all kinds of tokens
)
def test_portable_export_needs_core_ops_alone(program, exports, tmp_path, name):
    model, usual = exports(name)
    version = serving.export(model, tmp_path / name, portable=True)
    assert serving.needed_text_ops(usual) != []
    assert serving.needed_text_ops(version) == []
    assert ask(program, version, columns(name), libraries=[]) == pytest.approx(
        ask(program, usual, columns(name)), abs=1e-5
    )

import random
import subprocess
import sys
from importlib.metadata import version

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import font_manager

from keras_llm import book


@pytest.fixture(autouse=True)
def style_of_other_tests():
    """Leaves the style of plots as it was."""
    with plt.rc_context():
        yield


def draws():
    """A number from each source of randomness that a chapter may use."""
    return random.random(), np.random.random(), float(keras.random.uniform(()))


def test_the_same_seed_gives_the_same_numbers():
    book.begin()
    first = draws()
    assert draws() != first
    book.begin()
    assert draws() == first
    book.begin(seed=1)
    assert draws() != first


def test_the_versions_are_those_installed(capsys):
    book.begin()
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines()[:7])
    assert printed.pop("python") == "{}.{}.{}".format(*sys.version_info)
    assert printed == {package: version(package) for package in printed}
    assert {"keras-llm", "keras", "tensorflow"} <= printed.keys()


def test_the_first_colours_are_blue_red_and_grey():
    book.begin()
    red, green, blue = np.array([plt.matplotlib.colors.to_rgb(f"C{i}") for i in range(3)]).T
    assert blue[0] > max(red[0], green[0])
    assert red[1] > max(green[1], blue[1])
    assert np.ptp([red[2], green[2], blue[2]]) < 0.1


@pytest.mark.parametrize(
    "installed", [["WenQuanYi Zen Hei", "Arial"], ["SimHei", "Noto Sans CJK SC"]]
)
def test_plots_take_the_first_chinese_font_that_is_installed(installed, monkeypatch, capsys):
    monkeypatch.setattr(font_manager, "get_font_names", lambda: installed)
    book.begin()
    chosen = next(font for font in book.CHINESE_FONTS if font in installed)
    assert plt.rcParams["font.family"] == ["DejaVu Sans", chosen]
    assert "boxes" not in capsys.readouterr().out


def test_a_missing_chinese_font_is_said(monkeypatch, capsys):
    monkeypatch.setattr(font_manager, "get_font_names", lambda: ["Arial"])
    book.begin()
    assert plt.rcParams["font.family"] == ["DejaVu Sans"]
    assert "No font with Chinese characters" in capsys.readouterr().out


def test_a_chapter_begins_without_a_word_on_stderr_and_has_stderr_after():
    code = "import sys; from keras_llm import book; book.begin(); sys.stderr.write('heard')"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0
    assert process.stderr == "heard"
    assert process.stdout.startswith("python")


def test_stderr_is_given_back_after_an_error(capfd):
    with pytest.raises(RuntimeError), book.quiet():
        print("unheard", file=sys.__stderr__, flush=True)
        raise RuntimeError
    print("heard", file=sys.__stderr__, flush=True)
    assert capfd.readouterr().err == "heard\n"

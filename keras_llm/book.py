"""What every chapter of the book begins with: quiet logs, a seed, one style of plots, versions."""

import contextlib
import importlib
import logging
import os
import platform
from importlib.metadata import version

import matplotlib.pyplot as plt
from matplotlib import cycler, font_manager

PACKAGES = ("keras-llm", "keras", "keras-hub", "tensorflow", "tensorflow-text", "numpy")

# Fonts with Chinese characters, as systems ship them; plots take the first that is installed.
CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "WenQuanYi Zen Hei",
    "SimHei",
)

STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(
        color=["#2f6db3", "#c8553d", "#b8bcc2", "#3c8d5a", "#e0a030", "#7a5ba8"]
    ),
    "legend.frameon": False,
}


def begin(seed: int = 0) -> None:
    """Begins a chapter: silences TensorFlow's log, seeds, sets the style and prints the versions.

    Colours "C0", "C1" and "C2" are blue, red and grey. Where no font with Chinese characters is
    installed, the last line says so.

    Args:
        seed: int, for Python, NumPy and Keras.

    Example:
        >>> begin()
        python           3...
        keras-llm        ...
    """
    with quiet():
        keras = importlib.import_module("keras")
        importlib.import_module("keras_llm.tasks")
    logging.getLogger("tensorflow").setLevel("ERROR")
    keras.utils.set_random_seed(seed)

    installed = set(font_manager.get_font_names())
    chinese = [font for font in CHINESE_FONTS if font in installed][:1]
    plt.rcParams.update({**STYLE, "font.family": ["DejaVu Sans", *chinese]})

    print(f"{'python':<16} {platform.python_version()}")
    for package in PACKAGES:
        print(f"{package:<16} {version(package)}")
    if not chinese:
        print("No font with Chinese characters is installed: plots show boxes in their place.")


@contextlib.contextmanager
def quiet():
    """Drops what is written to stderr, for first words of libraries that heed no setting of a log.

    Example:
        >>> with quiet():
        ...     _ = os.write(2, b"nobody reads this")
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr, nobody = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nobody, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nobody)

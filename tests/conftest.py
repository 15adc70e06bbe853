"""What all tests have: two logical CPU devices, for tf.distribute to mirror, and a browser."""

import os
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import pytest
import tensorflow as tf
from playwright.sync_api import sync_playwright

from keras_llm import training

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

hypothesis.settings.register_profile("shared machine", deadline=None)  # others may be busy on it
hypothesis.settings.load_profile("shared machine")

_cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(_cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Spreads the tests over processes (`--dist loadgroup`): a file stays together on one of them.

    Tests that name a group of their own, as each notebook does, are spread by it and begin first:
    they take longest.
    """
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.fixture(params=[1, 2], ids=["one replica", "two replicas"])
def replicas(request):
    """A strategy of one and of two replicas."""
    if request.param == 1:
        return tf.distribute.get_strategy()
    return training.strategy()


@pytest.fixture(scope="module")
def browser():
    """Chromium as the system has it."""
    executable = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if executable is None:
        pytest.skip("There is no Chromium: install one, for example `apt-get install chromium`.")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=OPTIONS)
        yield chromium
        chromium.close()

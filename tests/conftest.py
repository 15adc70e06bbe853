"""Two logical CPU devices for every test, so that tf.distribute has replicas to mirror."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import pytest
import tensorflow as tf

from keras_llm import training

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

"""Large language models from principles to practice, in Keras 3 and TensorFlow.

The package is a house: each room imports only rooms before it in the order of `ROOMS`, which is the
order in which data flow. A room is imported when it is first used, so `import keras_llm` is quick.

    >>> import keras_llm
    >>> keras_llm.corpora.available()[0]
    'state_of_the_union'
"""

import importlib

__version__ = "0.1.0"

ROOMS = (
    "storage",
    "corpora",
    "tokenizers",
    "objectives",
    "layers",
    "training",
    "models",
    "generation",
    "tasks",
    "checkpoints",
    "serving",
    "finetune",
    "demo",
    "book",
    "cli",
)

__all__ = ["ROOMS", "__version__", *ROOMS]


def __getattr__(name):
    if name not in ROOMS:
        raise AttributeError(f"module 'keras_llm' has no attribute {name!r}; it has {__all__}")
    return importlib.import_module(f"keras_llm.{name}")


def __dir__():
    return sorted(__all__)

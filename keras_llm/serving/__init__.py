"""One export that TF Serving, C++ and Python load: strings in, names, texts or vectors out."""

from keras_llm.serving.checking import check
from keras_llm.serving.saved_model import export

__all__ = ["check", "export"]

"""One export that TF Serving, C++ and Python load: strings in, names, texts or vectors out."""

from keras_llm.serving.checking import check, needed_text_ops
from keras_llm.serving.client import Client
from keras_llm.serving.page import page, show_page
from keras_llm.serving.saved_model import export, export_file

__all__ = ["Client", "check", "export", "export_file", "needed_text_ops", "page", "show_page"]

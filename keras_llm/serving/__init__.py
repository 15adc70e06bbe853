"""Exports: for TF Serving, C++ and Python, strings in and answers out; and for devices."""

from keras_llm.serving.checking import check, needed_text_ops
from keras_llm.serving.client import Client
from keras_llm.serving.litert import check_litert, export_litert
from keras_llm.serving.page import page, show_page
from keras_llm.serving.saved_model import export, export_file, load_model

__all__ = [
    "Client",
    "check",
    "check_litert",
    "export",
    "export_file",
    "export_litert",
    "load_model",
    "needed_text_ops",
    "page",
    "show_page",
]

"""Weights that others have trained, in the layouts they are published in."""

from keras_llm.checkpoints.hugging_face import load_hugging_face, save_hugging_face
from keras_llm.checkpoints.published import available

__all__ = ["available", "load_hugging_face", "save_hugging_face"]

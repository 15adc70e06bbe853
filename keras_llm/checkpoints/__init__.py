"""Weights that others have trained, in the layouts they are published in."""

from keras_llm.checkpoints.hugging_face import load_hugging_face, save_hugging_face

__all__ = ["load_hugging_face", "save_hugging_face"]

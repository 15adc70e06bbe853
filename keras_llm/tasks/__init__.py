"""What people fine-tune: strings in, names out."""

from keras_llm.tasks.classification import TextClassifier
from keras_llm.tasks.preprocessing import TextClassifierPreprocessor

__all__ = ["TextClassifier", "TextClassifierPreprocessor"]

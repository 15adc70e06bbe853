"""What people fine-tune and train: tasks that take strings in `fit` and give strings back."""

from keras_llm.tasks.classification import TextClassifier
from keras_llm.tasks.preprocessing import TextClassifierPreprocessor, TranslatorPreprocessor
from keras_llm.tasks.translation import Translator

__all__ = [
    "TextClassifier",
    "TextClassifierPreprocessor",
    "Translator",
    "TranslatorPreprocessor",
]

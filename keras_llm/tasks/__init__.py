"""What people fine-tune and train: tasks that take strings in `fit` and give strings back."""

# A saved task is loaded with its backbone and tokenizer: their classes must be known to Keras.
from keras_llm import models, tokenizers  # noqa: F401
from keras_llm.tasks.chat import Chat
from keras_llm.tasks.classification import TextClassifier
from keras_llm.tasks.embedding import TextEmbedder
from keras_llm.tasks.preprocessing import (
    EncoderPreprocessor,
    TextClassifierPreprocessor,
    TranslatorPreprocessor,
)
from keras_llm.tasks.translation import Translator

__all__ = [
    "Chat",
    "EncoderPreprocessor",
    "TextClassifier",
    "TextClassifierPreprocessor",
    "TextEmbedder",
    "Translator",
    "TranslatorPreprocessor",
]

"""What people fine-tune and train: tasks that take strings in `fit` and give strings back."""

# A saved task is loaded with its backbone and tokenizer: their classes must be known to Keras.
from keras_llm import models, tokenizers  # noqa: F401
from keras_llm.tasks.chat import Chat
from keras_llm.tasks.classification import TextClassifier
from keras_llm.tasks.embedding import TextEmbedder
from keras_llm.tasks.pair_classification import TextPairClassifier
from keras_llm.tasks.preprocessing import (
    EncoderPreprocessor,
    QuestionAnswererPreprocessor,
    SequenceToSequencePreprocessor,
    TextClassifierPreprocessor,
    TextPairClassifierPreprocessor,
    TokenClassifierPreprocessor,
)
from keras_llm.tasks.prompting import (
    CausalPromptPreprocessor,
    MaskedPromptPreprocessor,
    PromptClassifier,
)
from keras_llm.tasks.question_answering import QuestionAnswerer, squad_scores
from keras_llm.tasks.retrieval import Found, Passage, Retriever
from keras_llm.tasks.sequence_to_sequence import SequenceToSequence
from keras_llm.tasks.summarization import (
    Summarizer,
    first_clauses,
    lead_baseline,
    rouge_scores,
)
from keras_llm.tasks.token_classification import Entity, TokenClassifier, entity_scores
from keras_llm.tasks.translation import Translator
from keras_llm.tasks.writing import Writer, distinct_n, language_model, share_that_parses
from keras_llm.tasks.zero_shot import ZeroShotClassifier

__all__ = [
    "CausalPromptPreprocessor",
    "Chat",
    "EncoderPreprocessor",
    "Entity",
    "Found",
    "MaskedPromptPreprocessor",
    "Passage",
    "PromptClassifier",
    "QuestionAnswerer",
    "QuestionAnswererPreprocessor",
    "Retriever",
    "SequenceToSequence",
    "SequenceToSequencePreprocessor",
    "Summarizer",
    "TextClassifier",
    "TextClassifierPreprocessor",
    "TextEmbedder",
    "TextPairClassifier",
    "TextPairClassifierPreprocessor",
    "TokenClassifier",
    "TokenClassifierPreprocessor",
    "Translator",
    "Writer",
    "ZeroShotClassifier",
    "distinct_n",
    "entity_scores",
    "first_clauses",
    "language_model",
    "lead_baseline",
    "rouge_scores",
    "share_that_parses",
    "squad_scores",
]

"""Ids to training examples: what a model is asked to learn from text."""

from keras_llm.objectives.bert_examples import bert_examples
from keras_llm.objectives.masked_lm import MaskedLM
from keras_llm.objectives.next_sentence import SentencePair, sentence_pairs
from keras_llm.objectives.shards import read_pairs, write_pairs

__all__ = [
    "MaskedLM",
    "SentencePair",
    "bert_examples",
    "read_pairs",
    "sentence_pairs",
    "write_pairs",
]

"""Ids to training examples: what a model is asked to learn from text."""

from keras_llm.objectives.bert_examples import bert_examples
from keras_llm.objectives.causal_lm import causal_lm_examples
from keras_llm.objectives.denoising import Denoising, denoising_examples
from keras_llm.objectives.dialogue import dialogue_examples
from keras_llm.objectives.full_sentences import masked_lm_examples
from keras_llm.objectives.masked_lm import MaskedLM
from keras_llm.objectives.next_sentence import SentencePair, sentence_pairs
from keras_llm.objectives.permutation_lm import PermutationLM, permutation_lm_examples
from keras_llm.objectives.shards import read_pairs, write_pairs
from keras_llm.objectives.span_corruption import SpanCorruption, span_corruption_examples

__all__ = [
    "Denoising",
    "MaskedLM",
    "PermutationLM",
    "SentencePair",
    "SpanCorruption",
    "bert_examples",
    "causal_lm_examples",
    "denoising_examples",
    "dialogue_examples",
    "masked_lm_examples",
    "permutation_lm_examples",
    "read_pairs",
    "sentence_pairs",
    "span_corruption_examples",
    "write_pairs",
]

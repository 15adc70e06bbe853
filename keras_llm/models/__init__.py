"""Whole models, one file each: language models before attention, Transformer, and its family."""

from keras_llm.models.bert import BertBackbone, BertForPretraining
from keras_llm.models.distilbert import DistilBertBackbone, DistilBertMaskedLM
from keras_llm.models.electra import (
    ElectraBackbone,
    ElectraDiscriminator,
    ElectraForPretraining,
    ElectraGenerator,
)
from keras_llm.models.encoder_decoder import EncoderDecoder
from keras_llm.models.gpt2 import GPT2Backbone, GPT2CausalLM
from keras_llm.models.initialization import mimetic_initialization
from keras_llm.models.language_model import LanguageModel
from keras_llm.models.llama import LlamaBackbone, LlamaCausalLM
from keras_llm.models.ngram import NGramLM
from keras_llm.models.recurrent import RecurrentLM
from keras_llm.models.roberta import RobertaBackbone, RobertaMaskedLM
from keras_llm.models.t5 import T5Backbone, T5Seq2SeqLM, T5Seq2SeqLMPreprocessor
from keras_llm.models.transformer import Transformer
from keras_llm.models.xlnet import XLNetBackbone, XLNetForPretraining

__all__ = [
    "BertBackbone",
    "BertForPretraining",
    "DistilBertBackbone",
    "DistilBertMaskedLM",
    "ElectraBackbone",
    "ElectraDiscriminator",
    "ElectraForPretraining",
    "ElectraGenerator",
    "EncoderDecoder",
    "GPT2Backbone",
    "GPT2CausalLM",
    "LanguageModel",
    "LlamaBackbone",
    "LlamaCausalLM",
    "NGramLM",
    "RecurrentLM",
    "RobertaBackbone",
    "RobertaMaskedLM",
    "T5Backbone",
    "T5Seq2SeqLM",
    "T5Seq2SeqLMPreprocessor",
    "Transformer",
    "XLNetBackbone",
    "XLNetForPretraining",
    "mimetic_initialization",
]

"""Whole models, one file each: what came before attention, the encoder-decoder, and BERT."""

from keras_llm.models.bert import BertBackbone, BertForPretraining
from keras_llm.models.encoder_decoder import EncoderDecoder
from keras_llm.models.initialization import mimetic_initialization
from keras_llm.models.language_model import LanguageModel
from keras_llm.models.ngram import NGramLM
from keras_llm.models.recurrent import RecurrentLM
from keras_llm.models.t5 import T5Backbone, T5Seq2SeqLM
from keras_llm.models.transformer import Transformer
from keras_llm.models.xlnet import XLNetBackbone, XLNetForPretraining

__all__ = [
    "BertBackbone",
    "BertForPretraining",
    "EncoderDecoder",
    "LanguageModel",
    "NGramLM",
    "RecurrentLM",
    "T5Backbone",
    "T5Seq2SeqLM",
    "Transformer",
    "XLNetBackbone",
    "XLNetForPretraining",
    "mimetic_initialization",
]

"""Whole models, one file each, as KerasHub backbones and tasks."""

from keras_llm.models.bert import BertBackbone, BertForPretraining
from keras_llm.models.initialization import mimetic_initialization
from keras_llm.models.transformer import Transformer

__all__ = ["BertBackbone", "BertForPretraining", "Transformer", "mimetic_initialization"]

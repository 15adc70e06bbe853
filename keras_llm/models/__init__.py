"""Whole models, one file each, as KerasHub backbones and tasks."""

from keras_llm.models.bert import BertBackbone, BertForPretraining
from keras_llm.models.initialization import mimetic_initialization

__all__ = ["BertBackbone", "BertForPretraining", "mimetic_initialization"]

"""Whole models, one file each, as KerasHub backbones and tasks."""

from keras_llm.models.bert import BertBackbone, BertForPretraining

__all__ = ["BertBackbone", "BertForPretraining"]

"""Backbones: the stack of layers over the sequence."""

from mmcomponents.backbones.base import Backbone
from mmcomponents.backbones.decoder_lm import DecoderLM
from mmcomponents.backbones.transformers_lm import TransformersLM

__all__ = ["Backbone", "DecoderLM", "TransformersLM"]

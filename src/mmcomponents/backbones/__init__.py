"""Backbones: the stack of layers over the sequence."""

from mmcomponents.backbones.base import Backbone
from mmcomponents.backbones.decoder_lm import DecoderLM

__all__ = ["Backbone", "DecoderLM"]

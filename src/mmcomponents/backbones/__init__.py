"""Backbones: the decoder layers over the sequence.

    [T, d], Layout, rotary tables, KVCache ── Backbone ──► hidden states [T, d]

The contract is `Backbone` in `base.py`.
"""

from mmcomponents.backbones.base import Backbone
from mmcomponents.backbones.decoder_lm import DecoderLM
from mmcomponents.backbones.expert_decoder_lm import ExpertDecoderLM
from mmcomponents.backbones.transformers_lm import TransformersLM

__all__ = ["Backbone", "DecoderLM", "ExpertDecoderLM", "TransformersLM"]

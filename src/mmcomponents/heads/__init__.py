"""Heads: what reads the model's state."""

from mmcomponents.heads.base import Head
from mmcomponents.heads.lm_head import LMHead
from mmcomponents.heads.verbalizer import Verbalizer

__all__ = ["Head", "LMHead", "Verbalizer"]

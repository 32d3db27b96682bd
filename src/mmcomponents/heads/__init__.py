"""Heads: what reads the model's state."""

from mmcomponents.heads.base import Head
from mmcomponents.heads.lm_head import LMHead

__all__ = ["Head", "LMHead"]

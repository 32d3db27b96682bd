"""Heads, which read the state of the model.

    ModelState (hidden [T, d]) ── Head ──► logits [T, vocab], or losses of targets

The contract is `Head` in `base.py`.
"""

from mmcomponents.heads.base import Head
from mmcomponents.heads.lm_head import LMHead
from mmcomponents.heads.verbalizer import Verbalizer

__all__ = ["Head", "LMHead", "Verbalizer"]

"""Heads, which read the state of the model.

    ModelState (hidden [T, d], visual) ── Head ──► logits [T, vocab], losses of targets, boxes

The contract is `Head` in `base.py`.
"""

from mmcomponents.heads.base import Head
from mmcomponents.heads.detection_head import DetectionHead, LiteDetectionHead
from mmcomponents.heads.lm_head import LMHead
from mmcomponents.heads.verbalizer import Verbalizer
from mmcomponents.heads.vq_unfold import VQUnfold

__all__ = ["DetectionHead", "Head", "LMHead", "LiteDetectionHead", "VQUnfold", "Verbalizer"]

"""Mergers: a feature map to fewer, wider visual tokens.

    map [N, h * w, d] ── Merger ──► [N, num_tokens(h, w), d']

The contract is `Merger` in `base.py`.
"""

from mmcomponents.mergers.base import Merger
from mmcomponents.mergers.fold import Fold
from mmcomponents.mergers.pixel_unshuffle import PixelUnshuffle
from mmcomponents.mergers.qformer import FiLMQFormer, QFormer

__all__ = [
    "FiLMQFormer",
    "Fold",
    "Merger",
    "PixelUnshuffle",
    "QFormer",
]

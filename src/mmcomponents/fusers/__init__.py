"""Fusers: feature maps to feature maps. InternVL3 has none.

    VisualFeatures (several maps) ── Fuser ──► VisualFeatures (fewer maps)

The contract is `Fuser` in `base.py`.
"""

from mmcomponents.fusers.base import Fuser
from mmcomponents.fusers.merges import DetectionMerge, GatedMerge
from mmcomponents.fusers.mmfuser import MMFuser

__all__ = ["DetectionMerge", "Fuser", "GatedMerge", "MMFuser"]

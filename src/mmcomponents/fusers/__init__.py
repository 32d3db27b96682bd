"""Fusers: feature maps to feature maps. InternVL3 has none.

    VisualFeatures (several maps) ── Fuser ──► VisualFeatures (fewer maps)

The contract is `Fuser` in `base.py`.
"""

from mmcomponents.fusers.base import Fuser
from mmcomponents.fusers.channel_mapper import ChannelMapper
from mmcomponents.fusers.deformable_encoder import DeformableEncoder
from mmcomponents.fusers.merges import DetectionMerge, GatedMerge
from mmcomponents.fusers.mmfuser import MMFuser
from mmcomponents.fusers.ufi import UFIEncoder

__all__ = ["ChannelMapper", "DeformableEncoder", "DetectionMerge", "Fuser", "GatedMerge", "MMFuser", "UFIEncoder"]

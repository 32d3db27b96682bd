"""Vision encoders."""

from mmcomponents.vision.base import VisionEncoder
from mmcomponents.vision.intern_vit import InternViT

__all__ = ["InternViT", "VisionEncoder"]

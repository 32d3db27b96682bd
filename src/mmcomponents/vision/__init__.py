"""Vision encoders."""

from mmcomponents.vision.base import VisionEncoder
from mmcomponents.vision.intern_vit import InternViT
from mmcomponents.vision.transformers_vision import TransformersVision

__all__ = ["InternViT", "TransformersVision", "VisionEncoder"]

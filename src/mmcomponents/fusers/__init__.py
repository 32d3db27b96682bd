"""Fusers: several feature maps into one. InternVL3 has none."""

from mmcomponents.fusers.base import Fuser

__all__ = ["Fuser"]

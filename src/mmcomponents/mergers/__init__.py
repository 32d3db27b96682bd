"""Mergers: fewer, wider visual tokens."""

from mmcomponents.mergers.base import Merger
from mmcomponents.mergers.pixel_unshuffle import PixelUnshuffle

__all__ = ["Merger", "PixelUnshuffle"]

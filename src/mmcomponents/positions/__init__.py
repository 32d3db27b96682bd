"""Position encodings."""

from mmcomponents.positions.base import Position
from mmcomponents.positions.rope import RoPE
from mmcomponents.positions.v2pe import V2PE

__all__ = ["V2PE", "Position", "RoPE"]

"""Position encodings.

    Layout ── Position.ticks ──► int64 [T] (position * 256) ── rotary ──► cos, sin fp32 [T, D]

The contract is `Position` in `base.py`.
"""

from mmcomponents.positions.base import Position
from mmcomponents.positions.moving_base_rope import MovingBaseRoPE
from mmcomponents.positions.rope import RoPE
from mmcomponents.positions.v2pe import V2PE

__all__ = ["MovingBaseRoPE", "Position", "RoPE", "V2PE"]

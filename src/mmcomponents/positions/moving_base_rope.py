"""Rotary positions whose dynamic NTK base follows the length while decoding, as in transformers.

Source: RoFormer (Su et al. 2021, arXiv 2104.09864, section 3.2). Reference code: `modeling_rope_utils.py` of
huggingface/transformers.
"""

from __future__ import annotations

from torch import Tensor

from mmcomponents.batch import TICKS, Layout
from mmcomponents.positions.rope import RoPE


class MovingBaseRoPE(RoPE):
    """`RoPE` whose dynamic NTK base follows the length of the segment at each decoding step.

    This is what transformers computes (`dynamic_frequency_update` of `modeling_rope_utils.py`): past the trained length
    every new token gets another base, and cached keys keep the base of the step in which they were computed. `RoPE`
    keeps the base of the prefill instead. Use this class to compare answers; arguments are those of `RoPE`.
    """

    def _lengths(self, layout: Layout) -> Tensor:
        new = layout.cu_seqlens.diff().long()
        if layout.last_ticks is None:
            return new
        return new - layout.last_ticks.to(new.device).div(-TICKS, rounding_mode="floor") + 1

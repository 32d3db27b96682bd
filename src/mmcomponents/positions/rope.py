"""Rotary position embedding with integer positions.

Source: RoFormer (Su et al. 2021, arXiv 2104.09864, section 3.2). Reference code: `modeling_rope_utils.py` of
huggingface/transformers, for dynamic NTK.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmcomponents.batch import TICKS, Exact, Layout
from mmcomponents.limits import MAX_ROWS, check_numbers, check_sizes
from mmcomponents.positions.base import Position, check_layout
from mmcomponents.positions.frequencies import frequencies, tables


class RoPE(Position):
    """Rotary positions 0, 1, 2, … in each segment (Su et al. 2021), with dynamic NTK beyond the trained length.

    A segment of L > `max_position_embeddings` positions gets the base
    `base * (factor * L / max_position_embeddings - (factor - 1)) ** (d / (d - 2))`; each segment of a pack has its own.
    While decoding, L remains the length at prefill, so that cached keys and new queries agree; `MovingBaseRoPE` lets it
    grow, as transformers does.

    Args:
        head_dim: Width of a head.
        base: Base of the frequencies (theta).
        ntk_factor: Dynamic NTK factor; None: constant base.
        max_position_embeddings: Trained length; dynamic NTK has no effect up to it.
    """

    def __init__(
        self,
        head_dim: int,
        base: float = 1_000_000.0,
        ntk_factor: float | None = None,
        max_position_embeddings: int = 32768,
    ) -> None:
        super().__init__()
        check_sizes(head_dim=head_dim)
        check_numbers(least=1.0, base=base)
        check_numbers(least=1.0, ntk_factor=1.0 if ntk_factor is None else ntk_factor)
        check_sizes(MAX_ROWS, max_position_embeddings=max_position_embeddings)
        if head_dim % 2 or head_dim < 4:
            raise ValueError(f"rotary positions need an even head_dim of at least 4, got {head_dim}")
        self.head_dim = head_dim
        self.base = base
        self.ntk_factor = ntk_factor
        self.max_position_embeddings = max_position_embeddings

    @property
    def max_positions(self) -> int | None:
        """The trained length; None with dynamic NTK, which extends it."""
        return self.max_position_embeddings if self.ntk_factor is None else None

    def keeps_base(self, before: int, after: int) -> bool:
        """Returns whether dynamic NTK uses the same base for both lengths."""
        return self._rescale(before) == self._rescale(after)

    def ticks(self, layout: Layout) -> Tensor:
        """Computes positions in ticks of 1/256, int64 `[T]`.

        Raises:
            TypeError: `layout` is no layout.
        """
        check_layout(self, layout)
        starts = layout.cu_seqlens[:-1].long()
        if layout.last_ticks is not None:  # continue after the last cached position, rounded up
            first = -layout.last_ticks.div(-TICKS, rounding_mode="floor") + 1
            starts = starts - first
        index = torch.arange(layout.num_tokens, device=layout.cu_seqlens.device)
        return (index - starts[layout.segment_of_token()]) * TICKS

    def rotary(self, layout: Layout) -> Exact:
        """Computes cosine and sine, fp32 `[T, head_dim]` each."""
        return tables(self.ticks(layout), self._frequencies(layout))

    def _frequencies(self, layout: Layout) -> Tensor:
        device = layout.cu_seqlens.device
        is_short = layout.last_ticks is None and layout.max_seqlen <= self.max_position_embeddings
        if self.ntk_factor is None or (is_short and layout.prefill_len is None):
            return frequencies(self.head_dim, self.base, 1.0, device)
        lengths = self._lengths(layout)
        if int(lengths.max()) <= self.max_position_embeddings:
            return frequencies(self.head_dim, self.base, 1.0, device)
        each = [frequencies(self.head_dim, self.base, self._rescale(n), device) for n in lengths.tolist()]
        return torch.stack(each)[layout.segment_of_token()]

    def _lengths(self, layout: Layout) -> Tensor:
        """Returns the length of each segment that determines its base, `[S]`."""
        return layout.cu_seqlens.diff() if layout.prefill_len is None else layout.prefill_len

    def _rescale(self, length: int) -> float:
        """Returns the factor by which dynamic NTK rescales the base at a segment length; 1 up to the trained length."""
        if self.ntk_factor is None or length <= self.max_position_embeddings:
            return 1.0
        return self.ntk_factor * length / self.max_position_embeddings - (self.ntk_factor - 1.0)

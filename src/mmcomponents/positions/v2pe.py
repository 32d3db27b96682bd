"""Variable visual position encoding.

Source: V2PE (arXiv 2412.09616) and InternVL3 (arXiv 2504.10479, section 2.1). Reference code: OpenGVLab/V2PE.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmcomponents.batch import TICKS, Exact, Layout, TokenType
from mmcomponents.limits import check_numbers, check_sizes
from mmcomponents.positions.base import Position, check_layout
from mmcomponents.positions.frequencies import frequencies, tables

MAX_LOG2 = 8
"""delta = 2**-k for k = 0…8 (InternVL3, section 2.1)."""


class V2PE(Position):
    """Rotary positions that grow by 1 per text token and by delta <= 1 per visual token (arXiv 2412.09616).

    `delta` applies if the layout has no delta per image; in training the data pipeline draws one per image. After an
    image the position is rounded up to an integer, as in the authors' code; `realign=False` keeps the plain recurrence
    of the paper, p_i = p_{i-1} + delta. The two differ only if tokens * delta is not an integer.

    Tokens of a picture that is being made (`TokenType.IMAGE_GEN`) have steps of 1, in training as while decoding.

    There is no NTK scaling: delta keeps long inputs within the trained range.

    Args:
        head_dim: Width of a head.
        base: Base of the frequencies (theta).
        delta: Step of a visual token, a power of two from 1 to 1/256.
        realign: Whether the text after an image starts at an integer position.
    """

    def __init__(self, head_dim: int, base: float = 1_000_000.0, delta: float = 1.0, realign: bool = True) -> None:
        super().__init__()
        check_sizes(head_dim=head_dim)
        check_numbers(least=1.0, base=base)
        if head_dim % 2 or head_dim < 4:
            raise ValueError(f"rotary positions need an even head_dim of at least 4, got {head_dim}")
        self.head_dim = head_dim
        self.base = base
        self.realign = realign
        self.delta_log2 = delta_to_log2(delta)

    @property
    def delta(self) -> float:
        """Step of a visual token."""
        return 2.0**-self.delta_log2

    def ticks(self, layout: Layout) -> Tensor:
        """Computes positions in ticks of 1/256, int64 `[T]`.

        Raises:
            TypeError: `layout` is no layout.
            ValueError: The exponent k of an image is not in 0…8.
        """
        check_layout(self, layout)
        image, starts = layout.image_id.long(), layout.cu_seqlens[:-1].long()
        if layout.num_tokens == 0:
            return image
        # A picture that is being made has steps of 1, as while decoding, where its image is not known yet.
        image = image.masked_fill(layout.token_type == TokenType.IMAGE_GEN, -1)
        visual = image >= 0
        segment = layout.segment_of_token()
        steps = torch.where(visual, self._visual_steps(layout, image), TICKS)
        # Position before the first token of each segment: one step before 0, or the last cached position.
        before = -steps[starts] if layout.last_ticks is None else layout.last_ticks.to(steps.device)
        if self.realign:
            steps = steps + _realignment(steps, image, starts, before)
        # One cumulative sum over the pack, exact since it is of integers, then moved to the start of each segment.
        total = steps.cumsum(0)
        offset = before - (total - steps)[starts]
        return total + offset[segment]

    def rotary(self, layout: Layout) -> Exact:
        """Computes cosine and sine, fp32 `[T, head_dim]` each."""
        return tables(self.ticks(layout), frequencies(self.head_dim, self.base, 1.0, layout.cu_seqlens.device))

    def _visual_steps(self, layout: Layout, image: Tensor) -> Tensor:
        """Returns the step of each position as if it were visual, `[T]`."""
        if layout.delta_log2 is None or layout.delta_log2.numel() == 0:
            return torch.full_like(image, TICKS >> self.delta_log2)
        k = layout.delta_log2
        if k.device.type == "cpu" and bool(((k < 0) | (k > MAX_LOG2)).any()):  # on a GPU this would synchronise
            raise ValueError(f"delta_log2 must be 0 to {MAX_LOG2}, got {k.tolist()}")
        return TICKS >> k.long()[image.clamp(min=0)]


def _realignment(steps: Tensor, image: Tensor, start: Tensor, before: Tensor) -> Tensor:
    """Computes the addition to the step of the first token after an image, `[T]`.

    A run consists of consecutive tokens of one image within one segment. Text around it has integer positions, so that
    the ticks of the run, and those of an incomplete image in the cache, determine the distance to the next integer.
    """
    first = torch.zeros_like(image, dtype=torch.bool).index_fill_(0, start, True)
    opens = first.clone()
    opens[1:] |= image[1:] != image[:-1]
    run = opens.cumsum(0) - 1
    visual = torch.zeros_like(steps).scatter_(0, run, (image >= 0).long())  # 1 for a run of visual tokens
    ticks = torch.zeros_like(steps).index_add_(0, run, steps)
    # A cached position inside an image belongs to the run that continues it, and is rounded up before text.
    continues = (image[start] >= 0).long()
    ticks.index_add_(0, run[start], before * continues)
    # All by tensor operations of fixed shapes: a loop over images would wait for the device at each one.
    missing = -ticks % TICKS * visual
    extra = torch.where(opens & ~first, missing[(run - 1).clamp(min=0)], 0)
    return extra.index_add_(0, start, -before % TICKS * (1 - continues))


def delta_to_log2(delta: float) -> int:
    """Returns the exponent k of delta = 2**-k.

    Raises:
        ValueError: delta is not one of 1, 1/2, …, 1/256.
    """
    k = -math.log2(delta) if isinstance(delta, int | float) and delta > 0 else -1.0
    if not k.is_integer() or not 0 <= k <= MAX_LOG2:
        raise ValueError(f"delta must be a power of two from 1 to 1/{2**MAX_LOG2}, got {delta}")
    return int(k)

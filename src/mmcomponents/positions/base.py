"""The contract of a position encoding."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmcomponents.batch import Exact, Layout
from mmcomponents.component import Component


class Position(Component):
    """Turns a layout into positions and rotary tables. Built from (head_dim).

    Attributes:
        head_dim: Width of a head of the backbone.
    """

    head_dim: int

    @property
    def max_positions(self) -> int | None:
        """Tokens of a segment for which the positions are good; None: no limit is known."""
        return None

    def keeps_base(self, before: int, after: int) -> bool:
        """Whether a segment of either length has the same frequencies, so that cached keys stay right as it grows."""
        return True

    @abstractmethod
    def ticks(self, layout: Layout) -> Tensor:
        """Positions in integer ticks of 1/256, int64 `[T]`, or `[T, axes]`."""

    @abstractmethod
    def rotary(self, layout: Layout) -> Exact:
        """Cosine and sine, fp32 `[T, head_dim]` each; both halves of the last axis are alike."""

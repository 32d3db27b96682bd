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

    @abstractmethod
    def ticks(self, layout: Layout) -> Tensor:
        """Positions in integer ticks of 1/256, int64 `[T]`, or `[T, axes]`."""

    @abstractmethod
    def rotary(self, layout: Layout) -> Exact:
        """Cosine and sine, fp32 `[T, head_dim]` each; both halves of the last axis are alike."""

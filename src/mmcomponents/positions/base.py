"""Base class of position encodings."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmcomponents.batch import Exact, Layout
from mmcomponents.component import Component


class Position(Component):
    """Computes positions and rotary tables from a layout. Built from (head_dim).

    Attributes:
        head_dim: Width of a head of the backbone.
    """

    head_dim: int

    @property
    def max_positions(self) -> int | None:
        """Maximum number of tokens of a segment; None: no known limit."""
        return None

    def keeps_base(self, before: int, after: int) -> bool:
        """Returns whether both segment lengths have the same frequencies, so that cached keys stay valid."""
        return True

    @abstractmethod
    def ticks(self, layout: Layout) -> Tensor:
        """Computes positions in integer ticks of 1/256, int64 `[T]` or `[T, axes]`."""

    @abstractmethod
    def rotary(self, layout: Layout) -> Exact:
        """Computes cosine and sine, fp32 `[T, head_dim]` each; both halves of the last axis are equal."""


def check_layout(position: Position, layout: Layout) -> None:
    """Checks that what a position gets is a layout.

    Raises:
        TypeError: It is something else, such as token ids.
    """
    if not isinstance(layout, Layout):
        kind = type(layout).__name__
        raise TypeError(f"{type(position).__name__} takes a Layout, such as one_sequence(ids).layout, got {kind}")

"""The contract of a backbone."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmcomponents.batch import Exact, Layout
from mmcomponents.component import Component
from mmcomponents.nn.cache import KVCache


class Backbone(Component):
    """The stack of layers over the sequence; it owns no word table.

    Attributes:
        hidden_size: Width of the sequence.
        head_dim: Width of one attention head, which the position encoding is built from.
    """

    hidden_size: int
    head_dim: int
    refuses_tables: str | None = None
    """Why rotary tables of a position part cannot be used here; None: they can."""

    @abstractmethod
    def forward(self, x: Tensor, layout: Layout, rotary: Exact | None = None, cache: KVCache | None = None) -> Tensor:
        """Maps `[T, d]` to `[T, d]`; segments do not see one another."""

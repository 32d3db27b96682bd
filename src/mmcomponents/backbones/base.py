"""Base class of backbones."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmcomponents.batch import Exact, Layout
from mmcomponents.component import Component
from mmcomponents.nn.cache import KVCache


class Backbone(Component):
    """Stack of layers over the sequence, without an embedding weight.

    Attributes:
        hidden_size: Width of the sequence.
        head_dim: Width of an attention head, from which the position encoding is built.
    """

    hidden_size: int
    head_dim: int
    refuses_tables: str | None = None
    """Reason why the backbone does not support rotary tables of a position component; None if it does."""

    @abstractmethod
    def forward(self, x: Tensor, layout: Layout, rotary: Exact | None = None, cache: KVCache | None = None) -> Tensor:
        """Maps `[T, d]` to `[T, d]` without attention between segments."""

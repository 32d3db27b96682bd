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


def check_sequence(backbone: Backbone, x: Tensor, layout: Layout, rotary: Exact | None) -> None:
    """Checks the shapes of what a backbone gets.

    Raises:
        ValueError: `x` is not `[T, hidden_size]` for the T positions of the layout, or a rotary table is not
            `[T, head_dim]`.
    """
    name, shape = type(backbone).__name__, list(x.shape)
    needs = [layout.num_tokens, backbone.hidden_size]
    if shape != needs:
        raise ValueError(
            f"{name} takes the {needs[0]} positions of the layout, [T, hidden_size] = {needs}, got {shape}"
        )
    table = None if rotary is None else list(rotary.tensors[0].shape)
    if table not in (None, [needs[0], backbone.head_dim]):
        raise ValueError(f"{name} takes rotary tables [T, head_dim] = {[needs[0], backbone.head_dim]}, got {table}")

"""The contract of an embedder."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmcomponents.batch import PackedBatch, Runtime
from mmcomponents.component import Component


class Embedder(Component):
    """Owns the word table and makes the backbone's input. Built from (vocabulary, width).

    Attributes:
        hidden_size: Width of the sequence.
    """

    hidden_size: int

    @abstractmethod
    def word_table(self) -> Tensor | None:
        """The `[vocab, d]` parameter, or None where there are no words."""

    @abstractmethod
    def forward(self, batch: PackedBatch, rows: Tensor | None, runtime: Runtime | None = None) -> Tensor:
        """Embeds a pack as `[T, d]`, visual rows `[R, d]` at their places.

        Rows that no position points to stay part of the graph, with a gradient of zero: under FSDP all ranks run the
        same graph, also one whose pack has no image and whose rows are those of a blank tile.
        """

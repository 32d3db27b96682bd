"""The contract of a head."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from mmcomponents.batch import ModelState, PackedBatch
from mmcomponents.component import Component


class Head(Component):
    """Reads the model's state. Built from (width, vocabulary)."""

    needs: ClassVar[tuple[str, ...]] = ("hidden",)
    """Fields of `ModelState` that the head reads."""

    in_features: int
    """Width of what the head reads."""

    is_tied: bool = False
    """Whether the head's weight is the embedder's word table."""

    def tie(self, word_table: Tensor | None) -> None:
        """Takes the embedder's word table for its own weight, where the head is made to; called by the composite."""

    @abstractmethod
    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        """What the head makes of the state."""

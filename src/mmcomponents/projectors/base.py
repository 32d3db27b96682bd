"""The contract of a projector."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from mmcomponents.batch import VisualFeatures
from mmcomponents.component import Component


class Projector(Component):
    """Brings visual tokens to the width of the backbone. Built from (width in, width out)."""

    in_features: int | tuple[int, ...]
    """Width in; a tuple for several maps."""

    out_features: int
    """Width out."""

    needs_word_table: ClassVar[bool] = False
    """Whether `forward` is to be given the embedder's word table."""

    @abstractmethod
    def forward(self, features: VisualFeatures, word_table: Tensor | None = None) -> Tensor:
        """Projects `[N, n, in_features]` to `[N, n, out_features]`."""

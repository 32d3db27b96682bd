"""The contract of a merger."""

from __future__ import annotations

from abc import abstractmethod

from mmcomponents.batch import VisualFeatures
from mmcomponents.component import Component


class Merger(Component):
    """Turns a feature map into fewer, wider tokens.

    Built from the width of the map that comes in: an int, or a tuple for several maps.

    Attributes:
        in_features: Width of the map that comes in; a tuple for several maps.
        out_features: Width of the tokens that come out; a tuple for several maps.
    """

    in_features: int | tuple[int, ...]
    out_features: int | tuple[int, ...]

    @abstractmethod
    def num_tokens(self, hw: tuple[int, int]) -> int:
        """Tokens that come out for a map of this height and width.

        Raises:
            ValueError: The merger cannot take such a map.
        """

    @abstractmethod
    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Merges `[N, h*w, C]` into `[N, num_tokens((h, w)), out_features]`."""

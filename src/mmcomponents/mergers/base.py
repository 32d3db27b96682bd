"""Base class of mergers."""

from __future__ import annotations

from abc import abstractmethod

from mmcomponents.batch import VisualFeatures
from mmcomponents.component import Component


class Merger(Component):
    """Merges a feature map into fewer, wider tokens.

    Built from the width of the input map: an int, or a tuple for several maps.

    Attributes:
        in_features: Width of the input map; a tuple for several maps.
        out_features: Width of the output tokens; a tuple for several maps.
    """

    in_features: int | tuple[int, ...]
    out_features: int | tuple[int, ...]

    @abstractmethod
    def num_tokens(self, hw: tuple[int, int]) -> int:
        """Returns the number of output tokens for a map of this height and width.

        Raises:
            ValueError: The merger does not support this size.
        """

    def map_flops(self, num_tiles: int, hw: tuple[int, int]) -> float:
        """Returns the floating-point operations for maps of a number of tiles, as `Component.flops` counts them.

        Args:
            num_tiles: Number of tiles.
            hw: Rows and columns of the primary input map.
        """
        return 0.0

    @abstractmethod
    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Merges `[N, h*w, C]` into `[N, num_tokens((h, w)), out_features]`.

        Returns `dataclasses.replace(features, maps=…)`, which keeps context and valid sizes.
        """

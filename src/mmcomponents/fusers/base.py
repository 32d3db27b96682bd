"""Base class of fusers."""

from __future__ import annotations

from abc import abstractmethod

from mmcomponents.batch import VisualFeatures
from mmcomponents.component import Component


class Fuser(Component):
    """Converts feature maps to feature maps, such as several levels of an encoder to one.

    Built from the width of the input maps: an int, or a tuple for several.

    Attributes:
        in_features: Width of the input maps; a tuple for several.
        out_features: Width of the output maps; a tuple for several.
    """

    in_features: int | tuple[int, ...]
    out_features: int | tuple[int, ...]

    def grid(self, hw: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of the primary output map for those of the primary input map."""
        return hw

    def map_flops(self, num_tiles: int, hw: tuple[int, int]) -> float:
        """Returns the floating-point operations for maps of a number of tiles, as `Component.flops` counts them.

        Args:
            num_tiles: Number of tiles.
            hw: Rows and columns of the primary input map.
        """
        return 0.0

    @abstractmethod
    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Fuses the maps. Returns `dataclasses.replace(features, maps=…)`, which keeps context and valid sizes."""

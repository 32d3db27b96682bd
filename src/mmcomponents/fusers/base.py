"""The contract of a fuser."""

from __future__ import annotations

from abc import abstractmethod

from mmcomponents.batch import VisualFeatures
from mmcomponents.component import Component


class Fuser(Component):
    """Turns feature maps into feature maps, such as several levels of an encoder into one.

    Built from the width of the maps that come in: an int, or a tuple for several.

    Attributes:
        in_features: Width of the maps that come in; a tuple for several.
        out_features: Width of the maps that come out; a tuple for several.
    """

    in_features: int | tuple[int, ...]
    out_features: int | tuple[int, ...]

    @abstractmethod
    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Fuses the maps."""

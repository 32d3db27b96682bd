"""The contract of a vision encoder."""

from __future__ import annotations

from abc import abstractmethod

from mmcomponents.batch import ImageBatch, VisualFeatures
from mmcomponents.component import Component


class VisionEncoder(Component):
    """Turns tiles into feature maps.

    Attributes:
        hidden_size: Width of the feature map; a tuple of widths, shallow to deep, where there are several maps.
        image_size: Height and width in pixels of the tiles that the encoder was made for.
    """

    hidden_size: int | tuple[int, ...]
    image_size: int

    @abstractmethod
    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the primary map for tiles of this height and width."""

    @abstractmethod
    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Encodes tiles `[N, 3, H, W]` into maps of `[N, rows*columns, width]`."""


def patch_grid(pixel_hw: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of square patches in a tile of this height and width.

    Raises:
        ValueError: The tile is no multiple of the patch.
    """
    height, width = pixel_hw
    if height % patch_size or width % patch_size:
        raise ValueError(f"a tile of {height} x {width} pixels has no whole patches of {patch_size}")
    return height // patch_size, width // patch_size

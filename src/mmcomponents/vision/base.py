"""Base class of vision encoders."""

from __future__ import annotations

from abc import abstractmethod

from mmcomponents.batch import ImageBatch, VisualFeatures
from mmcomponents.component import Component


class VisionEncoder(Component):
    """Encodes tiles as feature maps.

    Attributes:
        hidden_size: Width of the feature map; for several maps a tuple of widths, from shallow to deep.
        image_size: Height and width in pixels of the tiles that the encoder is built for.
    """

    hidden_size: int | tuple[int, ...]
    image_size: int

    @abstractmethod
    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of the primary map for tiles of this height and width."""

    @abstractmethod
    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Encodes tiles `[N, 3, H, W]` as maps `[N, rows*columns, width]`."""


def patch_grid(pixel_hw: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Returns the rows and columns of square patches in a tile of this height and width.

    Raises:
        ValueError: The tile size is not a multiple of the patch size.
    """
    height, width = pixel_hw
    if height % patch_size or width % patch_size:
        raise ValueError(f"a tile of {height} x {width} pixels is not a multiple of the patch size {patch_size}")
    return height // patch_size, width // patch_size

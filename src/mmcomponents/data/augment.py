"""What training does to the tiles of an image beside cutting them.

InternVL3 is trained with random JPEG compression (arXiv 2504.10479, section 2.3): most pictures on the net have gone
through it, and the others are to look no different. As in its released code (`build_transform` of the training's
dataset), each tile is compressed by itself, after the image was cut; a thumbnail is a tile too. Frames of videos and
tests are left alone.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image


class JpegRecompression:
    """Writes each tile as a JPEG of a quality drawn for it, and reads it again.

    Args:
        least: Lowest quality.
        most: Highest quality; it may be drawn too.

    Raises:
        ValueError: The range is empty or leaves 1 to 100.
    """

    def __init__(self, least: int = 75, most: int = 100) -> None:
        if not 1 <= least <= most <= 100:
            raise ValueError(f"1 <= least <= most <= 100 does not hold for qualities from {least} to {most}")
        self.least, self.most = least, most

    def __call__(self, tiles: Sequence[Image.Image], seed: Sequence[int]) -> list[Image.Image]:
        """Returns the tiles as they come back, in their order; the same seed gives the same pixels.

        Args:
            tiles: RGB images.
            seed: Non-negative numbers that name the image and the epoch.
        """
        qualities = np.random.default_rng(tuple(seed)).integers(self.least, self.most, len(tiles), endpoint=True)
        return [_recompressed(tile, quality) for tile, quality in zip(tiles, qualities.tolist(), strict=True)]


def _recompressed(tile: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    tile.save(file, "JPEG", quality=quality)
    return Image.open(file, formats=["JPEG"]).convert("RGB")

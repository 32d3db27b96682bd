"""Augmentation of image tiles in training: random JPEG re-compression.

InternVL3 is trained with random JPEG compression (arXiv 2504.10479, section 2.3): most images on the web are compressed
already, and the others should look alike. As in its released code (`build_transform` of the training dataset), each
tile, including the thumbnail, is compressed separately after tiling. Video frames and evaluation are not augmented.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image


class JpegRecompression:
    """Encodes each tile as a JPEG of random quality and decodes it again.

    Args:
        least: Lowest quality.
        most: Highest quality, inclusive.

    Raises:
        ValueError: The range is empty or not within 1 to 100.
    """

    def __init__(self, least: int = 75, most: int = 100) -> None:
        if not 1 <= least <= most <= 100:
            raise ValueError(f"1 <= least <= most <= 100 does not hold for qualities from {least} to {most}")
        self.least, self.most = least, most

    def __call__(self, tiles: Sequence[Image.Image], seed: Sequence[int]) -> list[Image.Image]:
        """Returns the re-compressed tiles in their order; equal seeds give equal pixels.

        Args:
            tiles: RGB images.
            seed: Non-negative numbers that identify the image and the epoch.
        """
        qualities = np.random.default_rng(tuple(seed)).integers(self.least, self.most, len(tiles), endpoint=True)
        return [_recompressed(tile, quality) for tile, quality in zip(tiles, qualities.tolist(), strict=True)]


def _recompressed(tile: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    tile.save(file, "JPEG", quality=quality)
    return Image.open(file, formats=["JPEG"]).convert("RGB")

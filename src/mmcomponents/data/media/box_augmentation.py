"""Augmentation of images with boxes: flips, crops and other sizes, as detection transformers are trained with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mmcomponents.limits import check_numbers

Corners = npt.NDArray[np.float64]


class BoxAugmentation:
    """Flips an image from left to right, cuts a window out of it, and makes it smaller, each at random.

    A box is cut at the edge of the window; one that has nothing inside is left out. Images get smaller only, so that
    the tiles of a pack are not larger than without augmentation.

    Args:
        flip: Probability of a flip.
        crop: Probability of a window.
        window: Smallest side of a window, as a share of the image's.
        scale: Smallest side of the result, as a share of the image's or the window's.

    Raises:
        ValueError: A probability or a share is not between 0 and 1.
    """

    def __init__(self, flip: float = 0.5, crop: float = 0.5, window: float = 0.5, scale: float = 0.6) -> None:
        check_numbers(flip=flip, crop=crop, window=window, scale=scale)
        if max(flip, crop, window, scale) > 1 or min(window, scale) == 0:
            raise ValueError(
                f"probabilities are from 0 to 1 and shares more than 0, got flip {flip}, crop {crop}, window {window},"
                f" scale {scale}"
            )
        self.flip, self.crop, self.window, self.scale = flip, crop, window, scale

    def __call__(
        self, pixels: Tensor, boxes: Corners, generator: np.random.Generator
    ) -> tuple[Tensor, Corners, npt.NDArray[np.int64]]:
        """Augments a tile.

        Args:
            pixels: `[1, 3, H, W]` of any normalization.
            boxes: `[n, 4]` corners as shares of the image.
            generator: Source of randomness.

        Returns:
            Pixels `[1, 3, H', W']`, corners `[m, 4]` of the boxes that are left as shares of the new image, and their
            numbers `[m]`.
        """
        kept = np.arange(len(boxes))
        if generator.random() < self.flip:
            pixels = pixels.flip(-1)
            boxes = np.stack((1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]), axis=1)
        if generator.random() < self.crop:
            pixels, boxes, kept = self._cut(pixels, boxes, generator)
        share = generator.uniform(self.scale, 1.0)
        size = [max(1, round(share * side)) for side in pixels.shape[-2:]]
        if size != list(pixels.shape[-2:]):
            pixels = interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
        return pixels, boxes, kept

    def _cut(
        self, pixels: Tensor, boxes: Corners, generator: np.random.Generator
    ) -> tuple[Tensor, Corners, npt.NDArray[np.int64]]:
        ends = []
        for side in pixels.shape[-2:]:
            length = max(1, round(side * generator.uniform(self.window, 1.0)))
            begin = int(generator.integers(0, side - length, endpoint=True))
            ends.append((begin, begin + length))
        (top, bottom), (left, right) = ends
        height, width = pixels.shape[-2:]
        first = np.array([left / width, top / height] * 2)
        size = np.array([(right - left) / width, (bottom - top) / height] * 2)
        moved = ((boxes - first) / size).clip(0.0, 1.0)
        kept = np.flatnonzero((moved[:, 2:] - moved[:, :2] > 1e-6).all(1))
        return torch.clone(pixels[:, :, top:bottom, left:right]), moved[kept], kept

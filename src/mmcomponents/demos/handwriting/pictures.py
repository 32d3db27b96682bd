"""Pictures of a row of handwritten digits on a square sheet, for models that draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmcomponents.demos.handwriting.scenes import Scans, draw_digit


@dataclass(frozen=True)
class PictureStyle:
    """Style of pictures.

    Attributes:
        side: Side of a picture in pixels.
        digits: Number of digits of a row.
        jitter: Largest distance of a digit's box from the middle of its place, in pixels in both directions.
    """

    side: int = 32
    digits: int = 2
    jitter: int = 1

    def __post_init__(self) -> None:
        if self.digits < 1 or self.side // self.digits < 8 or not 0 <= self.jitter <= self.side:
            raise ValueError(
                f"a row of {self.digits} digits on {self.side} pixels needs 8 pixels for each, and a jitter from 0, got"
                f" {self.jitter}"
            )

    @property
    def box(self) -> int:
        """Side of a digit's box in pixels."""
        return self.side // self.digits


def draw_picture(
    scans: Sequence[Scans], style: PictureStyle, generator: np.random.Generator, vary: bool
) -> Image.Image:
    """Draws a row of digits in black on white.

    Args:
        scans: Ink of the digits, `[8, 8]` each.
        style: Style of the picture.
        generator: Source of randomness.
        vary: Whether to rotate, slant, and thin or thicken each digit slightly.
    """
    box, most = style.box, style.jitter
    sheet = np.zeros((style.side + 2 * most, style.side + 2 * most), np.float32)
    top = (style.side - box) // 2
    for number, scan in enumerate(scans):
        down, right = (int(n) for n in generator.integers(0, 2 * most, 2, endpoint=True))
        place = sheet[top + down : top + down + box, number * box + right : number * box + right + box]
        np.maximum(place, draw_digit(scan, box, generator if vary else None), out=place)
    inner = sheet[most : most + style.side, most : most + style.side]
    return Image.fromarray(np.round(255 * (1 - inner)).astype(np.uint8))


def pairs_of_digits(held_out: int, seed: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Splits the hundred pairs of digits into those for training and those that are held out.

    Each digit is in as many pairs that are held out on the left as on the right.

    Args:
        held_out: Number of pairs that are held out, a multiple of ten below 100.
        seed: Random seed.

    Raises:
        ValueError: The number is no such multiple.
    """
    if held_out % 10 or not 0 <= held_out < 100:
        raise ValueError(f"held_out must be a multiple of 10 from 0 to 90, got {held_out}")
    generator = np.random.default_rng((seed, 7))
    left, right = generator.permutation(10), generator.permutation(10)
    # In a Latin square, the pairs of one value have each digit once on each side.
    number: npt.NDArray[np.int64] = (np.argsort(left)[:, None] + np.argsort(right)[None, :]) % 10
    away = number < held_out // 10
    pairs = [(a, b) for a in range(10) for b in range(10)]
    return [pair for pair in pairs if not away[pair]], [pair for pair in pairs if away[pair]]

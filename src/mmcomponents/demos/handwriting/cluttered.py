"""Cluttered scenes of handwritten digits with a box around each, for detection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmcomponents.demos.handwriting.scenes import Scans, draw_digit

_INK = 0.35
"""Ink from which on a pixel belongs to the box of its digit."""

_TRIES = 50


@dataclass(frozen=True)
class ClutterStyle:
    """Style of cluttered scenes.

    Attributes:
        side: Side of the scene in pixels.
        digit_size: Smallest and largest side of a digit's cell in pixels.
        counts: Smallest and largest number of digits.
        overlap: Largest intersection over union of two cells.
        marks: Number of short strokes that are no digits.
    """

    side: int = 96
    digit_size: tuple[int, int] = (10, 20)
    counts: tuple[int, int] = (5, 30)
    overlap: float = 0.2
    marks: int = 12

    def __post_init__(self) -> None:
        least, most = self.digit_size
        if not 4 <= least <= most <= self.side:
            raise ValueError(f"digit_size {self.digit_size} and side {self.side} must satisfy 4 <= digit_size <= side")
        if not 0 <= self.counts[0] <= self.counts[1] or not 0 <= self.overlap <= 1 or self.marks < 0:
            raise ValueError(
                f"counts {self.counts} must ascend, overlap {self.overlap} be a share, and marks {self.marks} not"
                " negative"
            )


@dataclass(frozen=True)
class Clutter:
    """A drawn scene.

    Attributes:
        image: Grey-level image.
        boxes: fp32 `[n, 4]` corners of the ink of each digit in pixels: left, top, right, bottom.
        digits: `[n]` the digits.
    """

    image: Image.Image
    boxes: npt.NDArray[np.float32]
    digits: npt.NDArray[np.int64]


def draw_clutter(
    scans: Scans,
    digits: npt.NDArray[np.int64],
    allowed: npt.NDArray[np.int64],
    style: ClutterStyle,
    generator: np.random.Generator,
    vary: bool,
) -> Clutter:
    """Draws a scene; a digit for which no place is found is left out.

    Args:
        scans: All scans.
        digits: Digit of each scan.
        allowed: Numbers of the scans to choose from.
        style: Style of the scene.
        generator: Source of randomness.
        vary: Whether to rotate, slant, and thin or thicken each digit slightly.
    """
    sheet = np.zeros((style.side, style.side), np.float32)
    _draw_marks(sheet, style, generator)
    cells = np.zeros((0, 4), np.float32)
    boxes, found = [], []
    for scan in generator.choice(allowed, int(generator.integers(*style.counts, endpoint=True))):
        size = int(generator.integers(*style.digit_size, endpoint=True))
        cell = _free_cell(cells, size, style, generator)
        if cell is None:
            continue
        cells = np.vstack((cells, cell))
        left, top = int(cell[0]), int(cell[1])
        ink = draw_digit(scans[scan], size, generator if vary else None)
        rows, columns = (np.flatnonzero((ink > _INK).any(axis)) for axis in (1, 0))
        if not len(rows):
            continue
        place = sheet[top : top + size, left : left + size]
        np.maximum(place, ink * generator.uniform(0.6, 1.0), out=place)
        boxes.append((left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1))
        found.append(int(digits[scan]))
    paper, dark = generator.uniform(200, 255), generator.uniform(0, 60)
    grain = generator.normal(0.0, 6.0, sheet.shape)
    grey = np.clip(np.round(paper + (dark - paper) * sheet + grain), 0, 255).astype(np.uint8)
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return Clutter(Image.fromarray(grey), corners, np.array(found, np.int64))


def _free_cell(
    cells: npt.NDArray[np.float32], size: int, style: ClutterStyle, generator: np.random.Generator
) -> npt.NDArray[np.float32] | None:
    corner = generator.integers(0, style.side - size, (_TRIES, 1, 2), endpoint=True)
    sides = np.minimum(cells[:, 2:], corner + size) - np.maximum(cells[:, :2], corner)
    common = sides.clip(0).prod(2)
    union = (cells[:, 2:] - cells[:, :2]).prod(1) + size * size - common
    free = np.flatnonzero((common <= style.overlap * union).all(1))
    if not len(free):
        return None
    return np.concatenate((corner[free[0], 0], corner[free[0], 0] + size)).astype(np.float32)


def _draw_marks(sheet: Scans, style: ClutterStyle, generator: np.random.Generator) -> None:
    """Draws short strokes of one pixel, faint or as dark as digits, in place."""
    for _ in range(style.marks):
        start = generator.uniform(0, style.side, 2)
        angle, length = generator.uniform(0, 2 * np.pi), generator.uniform(2, 7)
        steps = start + np.linspace(0, length, 12)[:, None] * np.array([np.cos(angle), np.sin(angle)])
        at = steps.round().astype(int)
        at = at[((at >= 0) & (at < style.side)).all(1)]
        sheet[at[:, 0], at[:, 1]] = generator.uniform(0.3, 0.9)

"""Scenes of handwritten digits, composed from real scans.

The scans are those of scikit-learn's `load_digits`: 1,797 digits of 13 writers, 8 x 8 grey levels (E. Alpaydin and
C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998). A scene is a sheet of paper with one or several
digits, in a row, in a column or in a grid with empty cells, of varying size and position, without overlap.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Scans = npt.NDArray[np.float32]
Order = Literal["row", "column", "grid"]
ORDERS: tuple[Order, ...] = ("row", "column", "grid")


@dataclass(frozen=True)
class SceneStyle:
    """Style of scenes.

    Attributes:
        unit: Side in pixels of the cell of one digit.
        digit_size: Smallest and largest side of a digit's box, in pixels.
        counts: Weights of scenes with one digit, two, three and so on.
        orders: Weights of rows (wide sheets), columns (tall ones) and two-by-two grids among scenes of several digits.
    """

    unit: int
    digit_size: tuple[int, int]
    counts: tuple[float, ...]
    orders: tuple[float, float, float]

    def __post_init__(self) -> None:
        least, most = self.digit_size
        if not 8 <= least <= most <= self.unit:
            raise ValueError(f"digit_size {self.digit_size} and unit {self.unit} must satisfy 8 <= digit_size <= unit")
        for name, weights in (("counts", self.counts), ("orders", self.orders)):
            if min(weights, default=-1) < 0 or not 0 < sum(weights) < np.inf:
                raise ValueError(f"{name} {weights} must be weights: non-negative, with a positive finite sum")


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Attributes:
        image: Grey-level image.
        digits: Digits in reading order: from left to right, from top to bottom, or row by row.
        scans: Numbers of their scans.
        order: Arrangement of the digits.
        boxes: Left, top and side of each digit's box.
    """

    image: Image.Image
    digits: tuple[int, ...]
    scans: tuple[int, ...]
    order: Order
    boxes: tuple[tuple[int, int, int], ...]

    def png(self) -> bytes:
        """Returns the image as a PNG file."""
        buffer = io.BytesIO()
        self.image.save(buffer, "png")
        return buffer.getvalue()


def load_scans() -> tuple[Scans, npt.NDArray[np.int64]]:
    """Returns the scans, `[1797, 8, 8]` ink from 0 to 1, and their digits.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the handwriting data set needs scikit-learn: pip install 'mmcomponents[quickstart]'"
        ) from error
    data = load_digits()
    return (data.images / 16.0).astype(np.float32), data.target.astype(np.int64)


def lookalikes(scans: Scans, digits: npt.NDArray[np.int64], among: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns for each scan the digit of the nearest scan of another digit, `[n]`.

    Args:
        scans: Ink, `[n, 8, 8]`.
        digits: Digit of each scan, `[n]`.
        among: Numbers of the scans to search, with at least two different digits. Pass those of one part, so that its
            data do not depend on test scans.
    """
    flat = scans.reshape(len(scans), -1)
    squares = (flat**2).sum(axis=1)
    distances = squares[:, None] + squares[among] - 2 * flat @ flat[among].T
    distances[digits[:, None] == digits[among]] = np.inf
    nearest: npt.NDArray[np.int64] = digits[among[distances.argmin(axis=1)]]
    return nearest


def split_scans(digits: npt.NDArray[np.int64], shares: tuple[float, ...], seed: int) -> list[npt.NDArray[np.int64]]:
    """Splits the scans into disjoint parts, each digit in the same proportion.

    Args:
        digits: Digit of each scan.
        shares: Share of each part; they sum to one.
        seed: Random seed.

    Returns:
        Scan numbers of each part, sorted.
    """
    parts: list[list[int]] = [[] for _ in shares]
    generator = np.random.default_rng((seed, 0))
    for digit in range(10):
        scans = generator.permutation(np.flatnonzero(digits == digit))
        cuts = np.round(np.cumsum(shares) * len(scans)).astype(int)
        for part, piece in zip(parts, np.split(scans, cuts[:-1]), strict=True):
            part += piece.tolist()
    return [np.array(sorted(part)) for part in parts]


def draw_scene(
    scans: Scans,
    digits: npt.NDArray[np.int64],
    allowed: npt.NDArray[np.int64],
    style: SceneStyle,
    generator: np.random.Generator,
    vary: bool,
) -> Scene:
    """Draws a scene.

    Args:
        scans: All scans.
        digits: Digit of each scan.
        allowed: Numbers of the scans to choose from.
        style: Style of the scene.
        generator: Source of randomness.
        vary: Whether to rotate, slant, and thin or thicken each digit slightly, for scans that are used many times.
    """
    count = 1 + int(generator.choice(len(style.counts), p=_normal(style.counts)))
    order: Order = "row" if count == 1 else ORDERS[int(generator.choice(3, p=_normal(style.orders)))]
    chosen = generator.choice(allowed, count)
    width, height, boxes = _place(count, order, style, generator)
    paper, ink = generator.uniform(215, 255), generator.uniform(0, 70)
    sheet = np.zeros((height, width), np.float32)
    for scan, (left, top, side) in zip(chosen, boxes, strict=True):
        sheet[top : top + side, left : left + side] = draw_digit(scans[scan], side, generator if vary else None)
    grey = np.round(paper + (ink - paper) * sheet).astype(np.uint8)
    return Scene(
        image=Image.fromarray(grey),
        digits=tuple(digits[chosen].tolist()),
        scans=tuple(chosen.tolist()),
        order=order,
        boxes=tuple(boxes),
    )


def _normal(weights: tuple[float, ...]) -> npt.NDArray[np.float64]:
    return np.array(weights) / sum(weights)


def _place(
    count: int, order: Order, style: SceneStyle, generator: np.random.Generator
) -> tuple[int, int, list[tuple[int, int, int]]]:
    """Draws the size of the sheet, and left, top and side of each digit's box within its cell of one unit."""
    least, most = style.digit_size
    if order == "grid":
        rows = columns = 2
        cells = [divmod(int(n), 2) for n in np.sort(generator.choice(4, count, replace=False))]
    elif order == "column":
        rows, columns, cells = count, 1, [(n, 0) for n in range(count)]
    else:
        rows, columns, cells = 1, count, [(0, n) for n in range(count)]
    boxes = []
    for row, column in cells:
        side = int(generator.integers(least, most, endpoint=True))
        right, down = (int(n) for n in generator.integers(0, style.unit - side, 2, endpoint=True))
        boxes.append((column * style.unit + right, row * style.unit + down, side))
    return style.unit * columns, style.unit * rows, boxes


def draw_digit(scan: Scans, side: int, generator: np.random.Generator | None) -> Scans:
    """Returns a scan as `[side, side]` ink, enlarged by bicubic interpolation; with a generator, varied slightly."""
    angle, shear, stretch, weight = 0.0, 0.0, 1.0, 1.0
    if generator is not None:
        angle, shear = generator.uniform(-0.22, 0.22), generator.uniform(-0.2, 0.2)
        stretch, weight = np.exp(generator.uniform(-0.15, 0.15)), np.exp(generator.uniform(-0.45, 0.45))
    margin = 1  # so that a rotated digit keeps its corners
    source = Image.fromarray(np.pad(scan, margin), mode="F")
    zoom = (8 + margin) / side
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = zoom * turn @ np.array([[stretch, shear], [0.0, 1.0]])
    # from the centre of the box to the centre of the scan
    shift = np.full(2, 4 + margin) - matrix @ np.full(2, side / 2)
    coefficients = (*matrix[0], shift[0], *matrix[1], shift[1])
    drawn = source.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    ink: Scans = np.clip(np.asarray(drawn, np.float32), 0, 1) ** np.float32(weight)
    return ink

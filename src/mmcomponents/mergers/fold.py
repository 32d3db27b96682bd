"""Fold of an image tokenizer's grid: a rectangle of ids becomes one token."""

from __future__ import annotations

from mmcomponents.mergers.pixel_unshuffle import PixelUnshuffle


class Fold(PixelUnshuffle):
    """Stacks the channels of each `rows x columns` rectangle of ids, row by row (SynerGen-VL, arXiv 2412.09604, 3.1).

    It is `PixelUnshuffle` with the rectangle of the paper, 2 x 8: 4,096 ids of a picture become 256 tokens. `VQUnfold`
    makes the ids of a rectangle from one hidden state.

    Args:
        in_features: Width of the map.
        rows: Height of a rectangle in ids.
        columns: Width of a rectangle in ids.
    """

    def __init__(self, in_features: int | tuple[int, ...], rows: int = 2, columns: int = 8) -> None:
        super().__init__(in_features, rows, columns)

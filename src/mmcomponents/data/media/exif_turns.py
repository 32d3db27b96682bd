"""Places of boxes after the EXIF orientation of an image file, which turns the image by a quarter."""

from __future__ import annotations

from collections.abc import Callable

from mmcomponents.data.media.boxes import Box

TURNS: dict[int, Callable[[Box, float, float], Box]] = {
    5: lambda box, width, height: (box[1], box[0], box[3], box[2]),
    6: lambda box, width, height: (height - box[3], box[0], height - box[1], box[2]),
    7: lambda box, width, height: (height - box[3], width - box[2], height - box[1], width - box[0]),
    8: lambda box, width, height: (box[1], width - box[2], box[3], width - box[0]),
}
"""EXIF orientation -> place of a box after it, given the width and height before it."""

_BACK = {5: 5, 6: 8, 7: 7, 8: 6}
"""Orientation -> the one that undoes it."""


def turned_back(box: Box, orientation: int, width: float, height: float) -> Box:
    """Returns the place of a box of the upright image in the file.

    Args:
        box: Left, top, right and bottom in the upright image.
        orientation: EXIF orientation of the file, a key of `TURNS`.
        width: Width of the upright image, in the unit of the box.
        height: Height of the upright image, in the unit of the box.
    """
    return TURNS[_BACK[orientation]](box, width, height)

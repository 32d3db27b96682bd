"""Boxes with colours as pictures: one black canvas with a filled rectangle for each box."""

from __future__ import annotations

import torch
from torch import Tensor

BLACK = -1.0
"""Value of black in pictures from -1 to 1."""


def canvases(boxes: Tensor, colours: Tensor, size: tuple[int, int]) -> Tensor:
    """Draws each box as a filled rectangle on a black canvas of its own (GoT, arXiv 2503.10639, section 4.3).

    A rectangle has the pixels between the rounded places of its edges, at least one in each direction. What is outside
    of the canvas is not drawn.

    Args:
        boxes: `[B, 4]` left, top, right and bottom as shares of the canvas.
        colours: `[B, 3]` red, green and blue from 0 to 1.
        size: Height and width of a canvas in pixels.

    Returns:
        `[B, 3, height, width]` from -1 to 1, of the type of the colours.
    """
    height, width = size
    inside = _covered(boxes[:, 1::2], height)[:, :, None] & _covered(boxes[:, 0::2], width)[:, None, :]
    filled = (2 * colours - 1)[:, :, None, None]
    return torch.where(inside[:, None], filled, torch.full_like(filled, BLACK))


def mean_of_boxes(maps: Tensor, owner: Tensor, none: Tensor, count: int) -> Tensor:
    """Returns the mean of the maps of each owner's boxes; of an owner without boxes, the map of an empty canvas.

    Args:
        maps: `[B, ...]` maps of the canvases.
        owner: `[B]` int64, the owner of each canvas.
        none: `[...]` map of a canvas without a box.
        count: Number of owners.

    Returns:
        `[count, ...]`.
    """
    number = torch.bincount(owner, minlength=count)
    sums = maps.new_zeros(count, *none.shape).index_add(0, owner, maps)
    shape = (-1, *[1] * none.ndim)
    return torch.where((number > 0).view(shape), sums / number.clamp(min=1).view(shape).to(maps.dtype), none)


def _covered(edges: Tensor, pixels: int) -> Tensor:
    """Returns which of the pixels along one direction lie between edges `[B, 2]`."""
    first = (edges[:, 0] * pixels).round().clamp(0, pixels - 1)
    last = torch.maximum((edges[:, 1] * pixels).round(), first + 1)
    place = torch.arange(pixels, device=edges.device)
    return (place >= first[:, None]) & (place < last[:, None])

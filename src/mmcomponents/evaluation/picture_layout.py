"""Whether the things of a picture are in the boxes of its reasoning text, by the colours of the pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor
from scipy.ndimage import find_objects, label

from mmcomponents.data.media.boxes import SCALE
from mmcomponents.data.media.reasoned_boxes import ReasonedBox, parse_reasoning
from mmcomponents.evaluation.metrics.grounding import iou

Pixels = npt.NDArray[np.uint8]
PixelBox = tuple[int, int, int, int]
"""Left, top, right and bottom edge in pixels."""

_GROUND = -1

MIN_IOU = 0.7
"""IoU from which a thing is in its box."""


def located(pixels: Pixels, colours: Sequence[str], ground: str | None = None) -> list[PixelBox | None]:
    """Finds where colours are in a picture, by an exact check of its pixels.

    Each pixel is assigned to the nearest of the colours and the ground; the ground precedes a colour that is as near.
    The largest connected group of pixels of a colour counts: pixels at the edge of a thing may be nearest to the colour
    of another one.

    Args:
        pixels: `[H, W, 3]` of 8 bits.
        colours: Colours of the things, in a notation of CSS.
        ground: Colour of the ground. None: no pixel belongs to a ground.

    Returns:
        For each colour, the smallest box around its group of pixels; None without any.
    """
    values = pixels.astype(np.int32)
    nearest = np.full(values.shape[:2], _GROUND)
    least = np.full(values.shape[:2], np.iinfo(np.int64).max)
    for number, colour in [*([] if ground is None else [(_GROUND, ground)]), *enumerate(colours)]:
        distance = ((values - np.array(ImageColor.getrgb(colour)[:3])) ** 2).sum(-1)
        nearest[distance < least] = number
        least = np.minimum(least, distance)
    found: list[PixelBox | None] = []
    for number in range(len(colours)):
        groups, count = label(nearest == number)
        if not count:
            found.append(None)
            continue
        largest = 1 + int(np.bincount(groups.ravel())[1:].argmax())
        rows, columns = find_objects(groups)[largest - 1]
        found.append((columns.start, rows.start, columns.stop, rows.stop))
    return found


def overlaps(picture: Image.Image, reasoning: str, ground: str | None = None) -> list[float]:
    """Returns the IoU of each box of a reasoning text and the box around the pixels of its colour.

    The check is exact for things of one colour each on a ground of one colour. Two boxes of one colour cannot be told
    apart, and overlap by 0.

    Args:
        picture: Picture that was made after the reasoning.
        reasoning: Text with boxes and colours.
        ground: Colour of the ground. None: the median of the pixels outside of all boxes, if there are any.
    """
    boxes = parse_reasoning(reasoning).boxes
    pixels = np.asarray(picture.convert("RGB"), np.uint8)
    seen = located(pixels, [box.colour for box in boxes], ground or _ground(pixels, boxes))
    height, width = pixels.shape[:2]
    found = []
    for box, place in zip(boxes, seen, strict=True):
        if place is None or sum(box.rgb == other.rgb for other in boxes) > 1:
            found.append(0.0)
            continue
        left, top, right, bottom = place
        scaled = left * SCALE / width, top * SCALE / height, right * SCALE / width, bottom * SCALE / height
        found.append(iou(scaled, box.box))
    return found


def _ground(pixels: Pixels, boxes: Sequence[ReasonedBox]) -> str | None:
    height, width = pixels.shape[:2]
    outside = np.ones((height, width), bool)
    for box in boxes:
        left, top, right, bottom = box.box
        rows = slice(int(top * height / SCALE), int(np.ceil(bottom * height / SCALE)))
        outside[rows, int(left * width / SCALE) : int(np.ceil(right * width / SCALE))] = False
    if not outside.any():
        return None
    return "#" + "".join(f"{int(value):02x}" for value in np.median(pixels[outside], axis=0))

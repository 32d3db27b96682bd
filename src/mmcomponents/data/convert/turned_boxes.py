"""Boxes that were drawn on an image file before its EXIF orientation turns it.

Boxes are relative to the image that the annotator saw. Annotations that declare the size of that image ("width" and
"height", or "width_list" and "height_list") tell whether it is the upright one that a model sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from mmcomponents.data.convert.draft import Draft
from mmcomponents.data.convert.media_files import MediaFile
from mmcomponents.data.convert.other_programs.objects import Objects
from mmcomponents.data.convert.reading import TurnedBoxes
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.convert.wording import counted
from mmcomponents.data.media.boxes import SCALE, Box, map_boxes

_TURNS: dict[int, Callable[[Box, float, float], Box]] = {
    5: lambda box, width, height: (box[1], box[0], box[3], box[2]),
    6: lambda box, width, height: (height - box[3], box[0], height - box[1], box[2]),
    7: lambda box, width, height: (height - box[3], width - box[2], height - box[1], width - box[0]),
    8: lambda box, width, height: (box[1], width - box[2], box[3], width - box[0]),
}
"""EXIF orientation -> place of a box after it, given the width and height before it."""


def turn_boxes(draft: Draft, images: Sequence[MediaFile], treatment: TurnedBoxes) -> bool:
    """Turns boxes with their images, in place, where the declared size is that of the file before its EXIF orientation.

    Args:
        draft: The sample, whose objects are not placed yet.
        images: Its images.
        treatment: Whether such boxes are turned, or the sample is refused.

    Returns:
        Whether boxes were turned.

    Raises:
        Refused: The declared size is neither that of the upright image nor of the file, the boxes in the texts may
            belong to a turned or another image, or turning is refused.
    """
    objects: Objects | None = draft.objects
    in_texts = any("<box>" in text for text in draft.texts())
    if not in_texts and not (objects and objects.boxes):
        return False
    turned = [_is_turned(number, declared, image) for number, declared, image in _declared(draft, images)]
    if not any(turned):
        return False
    number = turned.index(True)
    if treatment == "refuse":
        raise Refused("bad_field", f"the boxes are those of image {number + 1} before its EXIF orientation turns it")
    if in_texts:
        if len(images) > 1:
            there = counted(len(images), "image")
            raise Refused("bad_field", f"EXIF turns image {number + 1} of {there}: its boxes in the texts are unknown")
        turn = _TURNS[images[0].orientation]
        for message in draft.messages:
            message["content"] = map_boxes(message["content"], lambda box: turn(box, SCALE, SCALE))
        if draft.answers is not None:
            chosen, rejected = (map_boxes(text, lambda box: turn(box, SCALE, SCALE)) for text in draft.answers)
            draft.answers = chosen, rejected
    if objects is not None:
        draft.objects = replace(
            objects, boxes=[_object_box(objects, n, images, turned) for n in range(len(objects.boxes))]
        )
    _declare_upright(draft, turned)
    return True


def _declared(draft: Draft, images: Sequence[MediaFile]) -> Iterator[tuple[int, tuple[float, float] | None, MediaFile]]:
    """Yields the number and the declared size of each image; None if none is declared."""
    widths, heights = (draft.kept.get(f"{side}_list", draft.kept.get(side)) for side in ("width", "height"))
    for number, image in enumerate(images):
        width, height = _of(widths, number), _of(heights, number)
        yield number, None if width is None or height is None else (width, height), image


def _of(given: object, number: int) -> float | None:
    """Returns the side of an image, from a number or a list."""
    if isinstance(given, list):
        given = given[number] if number < len(given) else None
    elif number:
        return None
    return given if isinstance(given, int | float) and not isinstance(given, bool) and given > 0 else None


def _is_turned(number: int, declared: tuple[float, float] | None, image: MediaFile) -> bool:
    """Whether an annotation declares the size of the file before its EXIF orientation."""
    if declared is None or _same_ratio(declared, image.size):
        return False
    if image.orientation in _TURNS and _same_ratio(declared, image.size[::-1]):
        return True
    raise Refused(
        "bad_field",
        f"the annotation gives {declared[0]:g} x {declared[1]:g} as the size of image {number + 1}, which has"
        f" {image.size[0]} x {image.size[1]}: its boxes are those of another picture",
    )


def _same_ratio(declared: tuple[float, float], real: tuple[int, int]) -> bool:
    return abs(declared[0] * real[1] - declared[1] * real[0]) <= max(real) + max(declared)


def _object_box(objects: Objects, number: int, images: Sequence[MediaFile], turned: Sequence[bool]) -> list[float]:
    box, image = objects.boxes[number], objects.images[number]
    if not 0 <= image < len(images) or not turned[image]:
        return box
    height, width = images[image].size  # of the file
    sides = (width, height) if objects.unit is None else (objects.unit, objects.unit)
    return list(_TURNS[images[image].orientation]((box[0], box[1], box[2], box[3]), *sides))


def _declare_upright(draft: Draft, turned: Sequence[bool]) -> None:
    """Exchanges the declared widths and heights of turned images, in place."""
    for width, height in (("width", "height"), ("width_list", "height_list")):
        given: tuple[Any, Any] = draft.kept.get(width), draft.kept.get(height)
        if all(isinstance(side, list) for side in given):
            pairs = [
                (h, w) if number < len(turned) and turned[number] else (w, h)
                for number, (w, h) in enumerate(zip(*given, strict=False))
            ]
            draft.kept[width], draft.kept[height] = [w for w, _ in pairs], [h for _, h in pairs]
        elif _of(given[0], 0) is not None and _of(given[1], 0) is not None:
            draft.kept[width], draft.kept[height] = given[::-1]

"""Boxes that were drawn on an image file before its EXIF orientation turns it.

Boxes are relative to the image that the annotator saw. Annotations that declare the size of that image ("width" and
"height", or "width_list" and "height_list") tell whether it is the upright one that a model sees.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmcomponents.data.convert.draft import Draft
from mmcomponents.data.convert.media_files import MediaFile
from mmcomponents.data.convert.other_programs.objects import Objects
from mmcomponents.data.convert.reading import TurnedBoxes
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.convert.wording import beginning, counted
from mmcomponents.data.media.boxes import SCALE, map_boxes
from mmcomponents.data.media.exif_turns import TURNS

_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_FOUR = r"\s*,\s*".join([_NUMBER] * 4)
_BOX = re.compile(rf"<box>\s*\[(?:\s*,?\s*\[\s*{_FOUR}\s*\])+\s*\]\s*</box>")
"""Boxes in the notation of InternVL."""
_BOX_LIKE = re.compile(rf"</?box>|(?<!<)bbox|[\[(]\s*{_FOUR}\s*[\])]|\({_NUMBER},\s*{_NUMBER}\),\s*\({_NUMBER},")
"""Boxes in any notation."""


def turn_boxes(draft: Draft, images: Sequence[MediaFile], treatment: TurnedBoxes) -> bool:
    """Turns boxes with their images, in place, where the declared size is that of the file before its EXIF orientation.

    Args:
        draft: The sample, whose objects are not placed yet.
        images: Image files of the sample, in the order of their placeholders.
        treatment: Whether such boxes are turned, or the sample is refused.

    Returns:
        Whether boxes were turned.

    Raises:
        Refused: The declared size is neither that of the upright image nor of the file, the boxes in the texts may
            belong to a turned or another image or are in another notation, or turning is refused.
    """
    objects: Objects | None = draft.objects
    in_texts = any(_BOX_LIKE.search(text) for text in draft.texts())
    if not in_texts and not (objects and objects.boxes):
        return False
    turned = _turned(draft, images)
    if not any(turned):
        return False
    number = turned.index(True)
    if treatment == "refuse":
        raise Refused("bad_field", f"the boxes are those of image {number + 1} before its EXIF orientation turns it")
    if in_texts:
        if len(images) > 1:
            there = counted(len(images), "image")
            raise Refused("bad_field", f"EXIF turns image {number + 1} of {there}: its boxes in the texts are unknown")
        if other := next((text for text in draft.texts() if _BOX_LIKE.search(_BOX.sub("", text))), None):
            raise Refused("bad_field", f"EXIF turns the image, and boxes of a text are not read: {beginning(other)!r}")
        turn = TURNS[images[0].orientation]
        for message in draft.messages:
            message["content"] = map_boxes(message["content"], lambda box: turn(box, SCALE, SCALE))
        if draft.answers is not None:
            chosen, rejected = (map_boxes(text, lambda box: turn(box, SCALE, SCALE)) for text in draft.answers)
            draft.answers = chosen, rejected
    if objects is not None:
        sizes = pixel_sizes(draft, images)
        boxes = [_object_box(objects, number, images, sizes, turned) for number in range(len(objects.boxes))]
        draft.objects = replace(objects, boxes=boxes)
    _declare_upright(draft, turned)
    return True


def upright_record(record: Mapping[str, Any], image: MediaFile, treatment: TurnedBoxes) -> tuple[dict[str, Any], bool]:
    """Returns a record of the kind `BoxedImage` for the upright image, and whether its boxes were turned.

    Args:
        record: The checked record. A turned one gets the key `turned_by` with the EXIF orientation.
        image: File of the image, with its upright size in pixels and its EXIF orientation.
        treatment: Whether boxes of the file before its EXIF orientation are turned, or the sample is refused.

    Raises:
        Refused: The declared size is neither that of the upright image nor of the file, or turning is refused.
    """
    width, height = (round(side) for side in record["size"])
    if (width, height) == image.size:
        return dict(record), False
    turn = TURNS.get(image.orientation)
    if turn is None or (height, width) != image.size:
        raise Refused(
            "bad_field",
            f"the annotation gives {width} x {height} as the size of the image, which has {image.size[0]} x"
            f" {image.size[1]}: its boxes are those of another picture",
        )
    if treatment == "refuse":
        raise Refused("bad_field", "the boxes are those of the image before its EXIF orientation turns it")
    turned = {
        **record,
        "boxes": [list(turn(tuple(box), width, height)) for box in record["boxes"]],
        "size": [height, width],
        "turned_by": image.orientation,
    }
    if crowds := record.get("crowds"):
        turned["crowds"] = [{**crowd, "box": list(turn(tuple(crowd["box"]), width, height))} for crowd in crowds]
    return turned, True


def pixel_sizes(draft: Draft, images: Sequence[MediaFile]) -> list[tuple[float, float]]:
    """Returns the size of each image that boxes in pixels refer to: the declared one, else its own."""
    return [declared or image.size for declared, image in zip(_declared(draft, len(images)), images, strict=True)]


def _declared(draft: Draft, count: int) -> list[tuple[float, float] | None]:
    """Returns the declared size of each image; None if none is declared."""
    sides: list[list[float | None]] = []
    for keys in (("width_list", "width", "image_width"), ("height_list", "height", "image_height")):
        given = next((draft.kept[key] for key in keys if draft.kept.get(key) is not None), None)
        values = given if isinstance(given, list) else [given] * count  # one size for several images is that of all
        sides.append([_side(values[number]) if number < len(values) else None for number in range(count)])
    pairs = zip(*sides, strict=True)
    return [None if width is None or height is None else (width, height) for width, height in pairs]


def _side(value: object) -> float | None:
    if isinstance(value, str):
        value = float(value) if value.strip().isdigit() else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None


def _turned(draft: Draft, images: Sequence[MediaFile]) -> list[bool]:
    """Returns whether an annotation declares the size of the file before its EXIF orientation, for each image."""
    found = []
    for number, (declared, image) in enumerate(zip(_declared(draft, len(images)), images, strict=True), start=1):
        if declared is None or declared == image.size:
            found.append(False)
        elif image.orientation in TURNS and declared == image.size[::-1]:
            found.append(True)
        elif _same_ratio(declared, image.size):
            found.append(False)
        elif image.orientation in TURNS and _same_ratio(declared, image.size[::-1]):
            found.append(True)
        else:
            raise Refused(
                "bad_field",
                f"the annotation gives {declared[0]:g} x {declared[1]:g} as the size of image {number}, which has"
                f" {image.size[0]} x {image.size[1]}: its boxes are those of another picture",
            )
    return found


def _same_ratio(declared: tuple[float, float], real: tuple[int, int]) -> bool:
    return abs(declared[0] * real[1] - declared[1] * real[0]) <= max(real) + max(declared)


def _object_box(
    objects: Objects,
    number: int,
    images: Sequence[MediaFile],
    sizes: Sequence[tuple[float, float]],
    turned: Sequence[bool],
) -> list[float]:
    box, image = objects.boxes[number], objects.images[number]
    if not 0 <= image < len(images) or not turned[image]:
        return box
    sides = sizes[image] if objects.unit is None else (objects.unit, objects.unit)
    return list(TURNS[images[image].orientation]((box[0], box[1], box[2], box[3]), *sides))


def _declare_upright(draft: Draft, turned: Sequence[bool]) -> None:
    """Exchanges the declared widths and heights of turned images, in place."""
    pairs = (("width", "height"), ("width_list", "height_list"), ("image_width", "image_height"))
    for width, height in pairs:
        given: tuple[Any, Any] = draft.kept.get(width), draft.kept.get(height)
        if all(isinstance(side, list) for side in given):
            swapped = [
                (h, w) if number < len(turned) and turned[number] else (w, h)
                for number, (w, h) in enumerate(zip(*given, strict=False))
            ]
            draft.kept[width], draft.kept[height] = [w for w, _ in swapped], [h for _, h in swapped]
        elif None not in given and all(turned):
            draft.kept[width], draft.kept[height] = given[::-1]

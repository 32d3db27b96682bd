"""Boxes of ms-swift's annotations: `<ref-object>` and `<bbox>` in the texts stand for the entries of "objects".

    {"messages": …, "images": [PATH], "objects": {"ref": ["dog"], "bbox": [[x1, y1, x2, y2]], "bbox_type": "real"}}

They are replaced, in order, by InternVL's `<ref>dog</ref>` and `<box>[[x1, y1, x2, y2]]</box>` with coordinates from 0
to 1000, once the size of the image is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmcomponents.data.convert.draft import Draft, check_answers
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.convert.wording import beginning, counted
from mmcomponents.data.media.boxes import SCALE, format_grounding

REF, BOX = "<ref-object>", "<bbox>"
_MARK = re.compile(f"{REF}|{BOX}")
_UNITS = {"real": None, "norm1": 1, "norm1000": SCALE}
"""Type of coordinates -> their range; None: pixels of the image."""


@dataclass(frozen=True)
class Objects:
    """Entries of "objects".

    Attributes:
        refs: Name of each object.
        boxes: Corners of each box.
        images: Number of the image of each box.
        unit: Range of the coordinates; None: pixels.
        rest: Other keys.
    """

    refs: list[str]
    boxes: list[list[float]]
    images: list[int]
    unit: int | None
    rest: dict[str, Any]


def take_objects(sample: Mapping[str, Any]) -> Objects | None:
    """Returns the objects of an annotation; None if it has none.

    Raises:
        Refused: They are not in ms-swift's form, or are points.
    """
    given = sample.get("objects")
    if not given:
        return None
    if not isinstance(given, dict):
        raise Refused("bad_field", f"'objects' must be {{'ref': […], 'bbox': […]}}, not {beginning(str(given))}")
    refs, boxes = given.get("ref") or [], given.get("bbox") or []
    if not isinstance(refs, list) or not all(isinstance(name, str) for name in refs):
        raise Refused("bad_field", "'ref' of 'objects' must be a list of names")
    for box in boxes if isinstance(boxes, list) else [boxes]:
        if not isinstance(box, list) or not all(_is_number(value) for value in box) or len(box) not in (2, 4):
            raise Refused("bad_field", f"a 'bbox' of 'objects' must be [x1, y1, x2, y2], not {beginning(str(box))}")
        if len(box) == 2:
            raise Refused("unsupported", f"'objects' has the point {box}; only boxes are supported")
    kind = given.get("bbox_type") or "real"
    if kind not in _UNITS:
        raise Refused("bad_field", f"'bbox_type' of 'objects' must be one of {', '.join(_UNITS)}, not {kind!r}")
    images = given.get("image_id") or [0] * len(boxes)
    if not isinstance(images, list) or len(images) != len(boxes) or not all(isinstance(one, int) for one in images):
        raise Refused("bad_field", "'image_id' of 'objects' must have one number for each box")
    rest = {key: value for key, value in given.items() if key not in ("ref", "bbox", "bbox_type", "image_id")}
    return Objects(refs, boxes, images, _UNITS[kind], rest)


def place_objects(draft: Draft, objects: Objects | None, sizes: Sequence[tuple[float, float]]) -> None:
    """Replaces the marks in the texts of a draft, in place.

    Args:
        draft: The sample.
        objects: Its objects, if it has any.
        sizes: Width and height of each image that pixels refer to.

    Raises:
        Refused: There are more or fewer marks than objects, or a box is not within its image.
    """
    texts = [message["content"] for message in draft.messages] + [*(draft.answers or ())]
    for mark, entries in ((REF, objects.refs if objects else []), (BOX, objects.boxes if objects else [])):
        found = sum(text.count(mark) for text in texts)
        if found != len(entries):
            what = counted(len(entries), "entry") if len(entries) == 1 else f"{len(entries)} entries"
            raise Refused("placeholders", f"the texts have {found} {mark}, and 'objects' has {what} for them")
    if objects is None:
        return
    names = iter(objects.refs)
    places = zip(objects.boxes, objects.images, strict=True)
    boxes = iter([_box(box, sizes, image, objects.unit) for box, image in places])

    def replaced(text: str) -> str:
        return _MARK.sub(lambda found: f"<ref>{next(names)}</ref>" if found[0] == REF else next(boxes), text)

    for message in draft.messages:
        message["content"] = replaced(message["content"])
    if draft.answers is not None:
        draft.answers = replaced(draft.answers[0]), replaced(draft.answers[1])
        check_answers(draft)


def _box(box: Sequence[float], sizes: Sequence[tuple[float, float]], image: int, unit: int | None) -> str:
    if not 0 <= image < len(sizes):
        there = counted(len(sizes), "image")
        raise Refused("bad_field", f"'objects' has a box of image {image}, counted from 0, of {there}")
    width, height = sizes[image]
    x, y = (width, height) if unit is None else (unit, unit)
    try:
        return format_grounding("", [(box[0], box[1], box[2], box[3])], x, y)
    except ValueError as error:
        raise Refused("bad_field", f"'objects': {error}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

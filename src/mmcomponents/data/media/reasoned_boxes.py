"""Boxes with colours in a reasoning text: reading, writing and changing them.

    <ref>a red bus</ref><box>[[250, 250, 750, 750]]</box> (red)      InternVL's box format, written and read here
    a red bus <|box_start|>(250,250),(750,750)<|box_end|> (red)      the format of GoT's data, which is read too

Coordinates are thousandths of the picture's width and height. (GoT, arXiv 2503.10639, section 3.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import ImageColor

from mmcomponents.data.media.boxes import SCALE, Box

_DIGITS = 3
_NUMBER = r"\s*([-+]?\d{1,9}(?:\.\d{0,9})?)\s*"
_PAIR = rf"\({_NUMBER},{_NUMBER}\)"
_BOX = re.compile(
    r"(?P<open><box>|<\|box_start\|>)\s*"
    r"(?P<body>(?:(?!</?box>|<\|box_(?:start|end)\|>).)*?)\s*"
    r"(?P<close></box>|<\|box_end\|>)(?P<rest>\s*\((?P<colour>[^()]*(?:\([^()]*\)[^()]*)?)\))?",
    re.S,
)
_BODY = re.compile(rf"\[\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]\]|{_PAIR}\s*,\s*{_PAIR}")
_TAGS = re.compile(r"</?box>|<\|box_(?:start|end)\|>")


@dataclass(frozen=True)
class ReasonedBox:
    """A box of a reasoning text.

    Attributes:
        box: Left, top, right and bottom in thousandths of the picture.
        colour: Name of its colour, or any other notation of CSS.
    """

    box: Box
    colour: str

    @property
    def rgb(self) -> tuple[float, float, float]:
        """Red, green and blue from 0 to 1.

        Raises:
            ValueError: The colour is unknown.
        """
        try:
            red, green, blue = ImageColor.getrgb(self.colour)[:3]
        except ValueError:
            raise ValueError(f"the colour {_short(self.colour)} is unknown: colours are those of CSS") from None
        return red / 255, green / 255, blue / 255

    def written(self) -> str:
        """Returns the box with its colour, as `parse_reasoning` reads it."""
        return f"<box>[[{', '.join(f'{round(value, _DIGITS):.7g}' for value in self.box)}]]</box> ({self.colour})"


@dataclass
class ParsedReasoning:
    """What was found in a reasoning text.

    Attributes:
        boxes: Its boxes, in the order of the text, within the picture.
        problems: What could not be read, one line each.
    """

    boxes: list[ReasonedBox] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def parse_reasoning(text: str) -> ParsedReasoning:
    """Finds the boxes of a reasoning text. What is malformed is reported and left out.

    A box that is partly outside of the picture is reported and cut off at its edges.

    Args:
        text: Text that a model wrote before a picture.
    """
    found = ParsedReasoning()
    for match in _BOX.finditer(text):
        box = _box_of(match, found.problems)
        if box is not None:
            found.boxes.append(box)
    found.problems += [f"unmatched {tag.group()}" for tag in _TAGS.finditer(_BOX.sub("", text))]
    return found


def replace_box(text: str, number: int, changed: ReasonedBox) -> str:
    """Returns a reasoning text with another box and colour in the place of one that `parse_reasoning` has found.

    Args:
        text: Reasoning text.
        number: Number of the box among those found, from 0.
        changed: The box in its place.

    Raises:
        ValueError: There is no such box, or the new one is not in the picture.
    """
    left, top, right, bottom = (round(value, _DIGITS) for value in changed.box)
    changed = ReasonedBox((left, top, right, bottom), changed.colour)
    check_box(changed.box)
    places = [match for match in _BOX.finditer(text) if _box_of(match, []) is not None]
    if not 0 <= number < len(places):
        raise ValueError(f"the reasoning has {len(places)} boxes, and box {number + 1} was named")
    match = places[number]
    return text[: match.start()] + changed.written() + text[match.end() :]


def check_box(box: Sequence[float]) -> None:
    """Checks that a box is in the picture and has an area.

    Raises:
        ValueError: It is not, or has none; the message has the box and the range.
    """
    left, top, right, bottom = box
    if not all(map(math.isfinite, box)) or not (0 <= left < right <= SCALE and 0 <= top < bottom <= SCALE):
        shown = ", ".join(f"{value:g}" for value in box)
        raise ValueError(f"the box [{shown}] is not within the picture, 0 to {SCALE}, or its corners are swapped")


def _box_of(match: re.Match[str], problems: list[str]) -> ReasonedBox | None:
    body = _BODY.fullmatch(match["body"])
    pairs = {"<box>": "</box>", "<|box_start|>": "<|box_end|>"}
    if body is None or pairs[match["open"]] != match["close"]:
        problems.append(f"{_short(match.group())} is not <box>[[x1, y1, x2, y2]]</box>")
        return None
    values = [float(number) for number in body.groups() if number is not None]
    left, top, right, bottom = (min(max(value, 0.0), float(SCALE)) for value in values)
    shown = ", ".join(f"{value:g}" for value in values)
    if not (left < right and top < bottom):
        swapped = values[0] > values[2] or values[1] > values[3]
        why = "has swapped corners" if swapped else f"has no area within the picture, 0 to {SCALE}"
        problems.append(f"the box [{shown}] {why}")
        return None
    if [left, top, right, bottom] != values:
        problems.append(f"the box [{shown}] is partly outside of the picture, 0 to {SCALE}")
    made = ReasonedBox((left, top, right, bottom), (match["colour"] or "").strip())
    try:
        _ = made.rgb
    except ValueError as error:
        problems.append(f"the box [{shown}]: {error}" if made.colour else f"the box [{shown}] has no colour")
        return None
    return made


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")

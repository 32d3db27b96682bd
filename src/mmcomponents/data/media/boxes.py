"""Parsing, formatting and drawing of grounding boxes, `<ref>name</ref><box>[[x1, y1, x2, y2], …]</box>`.

Coordinates are integers from 0 to 1000, thousandths of the image's width and height (InternVL's chat data format).
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; right and bottom are edges, so the full image is (0, 0, width, height)."""

SCALE = 1000
_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
_TAGS = ("<ref>", "</ref>", "<box>", "</box>")
_BOXES = re.compile(
    r"(?:<ref>(?P<name>(?:(?!</?ref>|</?box>).)*)</ref>\s*)?<box>(?P<boxes>(?:(?!</?box>).)*)</box>", re.S
)
_NUMBER = r"[-+]?\d{1,9}(?:\.\d{0,9})?"
_ONE = re.compile(rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]")
_LEFT_OVER = re.compile(r"[\[\],\s]*")


@dataclass(frozen=True)
class Grounding:
    """A named object in an image.

    Attributes:
        name: Name of the object; "" for boxes without a name.
        boxes: One or more boxes.
    """

    name: str
    boxes: tuple[Box, ...]


@dataclass
class ParsedGroundings:
    """Result of parsing a text.

    Attributes:
        groundings: Groundings in the order of the text.
        problems: Descriptions of malformed parts, one line each.
    """

    groundings: list[Grounding] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def _check_size(width: float, height: float) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"an image of {width}x{height} has no area")


def parse_groundings(text: str, width: int, height: int) -> ParsedGroundings:
    """Finds the boxes in a text. Spaces are ignored; malformed parts are reported and skipped.

    Args:
        text: Text such as an answer of a model.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Raises:
        ValueError: The width or height is not positive.
    """
    _check_size(width, height)
    parsed, end, outside = ParsedGroundings(), 0, []
    for match in _BOXES.finditer(text):
        outside.append(text[end : match.start()])
        end = match.end()
        name = (match["name"] or "").strip()
        boxes = _boxes(match["boxes"], name, width, height, parsed.problems)
        if boxes:
            parsed.groundings.append(Grounding(name, tuple(boxes)))
    outside.append(text[end:])
    _report_tags(outside, parsed.problems)
    return parsed


def _boxes(text: str, name: str, width: int, height: int, problems: list[str]) -> list[Box]:
    boxes = []
    for found in _ONE.finditer(text):
        x1, y1, x2, y2 = (float(number) for number in found.groups())
        if not (0 <= x1 <= x2 <= SCALE and 0 <= y1 <= y2 <= SCALE):
            problems.append(
                f"{name or 'a box'}: {found.group()} is outside of 0 to {SCALE}, or its corners are swapped"
            )
            continue
        boxes.append((x1 / SCALE * width, y1 / SCALE * height, x2 / SCALE * width, y2 / SCALE * height))
    rest = _ONE.sub("", text)
    if not _LEFT_OVER.fullmatch(rest):
        problems.append(f"{name or 'a box'}: {_short(text)} is not a list of [x1, y1, x2, y2]")
    elif not _ONE.search(text):
        problems.append(f"{name or 'a box'}: no coordinates")
    return boxes


def map_boxes(text: str, change: Callable[[Box], Box]) -> str:
    """Changes the coordinates of all boxes of a text, within `<box>` and `</box>`.

    Args:
        text: Text with boxes in thousandths of an image.
        change: Returns the new coordinates of a box, in thousandths.
    """

    def changed(match: re.Match[str]) -> str:
        x1, y1, x2, y2 = change(tuple(float(number) for number in match.groups()))  # type: ignore[arg-type]
        return f"[{x1:g}, {y1:g}, {x2:g}, {y2:g}]"

    return _BOXES.sub(lambda match: _ONE.sub(changed, match.group()), text)


def _report_tags(outside: Iterable[str], problems: list[str]) -> None:
    """Reports unmatched box tags. A closed `<ref>` without a box is allowed: it only marks emphasis."""
    for text in outside:
        for tag in ("<box>", "</box>"):
            problems += [f"unmatched {tag} at {_short(text[found.start() :])}" for found in re.finditer(tag, text)]
        if text.count("<ref>") != text.count("</ref>"):
            problems.append(f"{text.count('<ref>')} <ref> and {text.count('</ref>')} </ref> in {_short(text)}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def format_grounding(name: str, boxes: Sequence[Box], width: float, height: float) -> str:
    """Formats a name and its boxes for InternVL; inverse of `parse_groundings`.

    Args:
        name: Name of the object; "" for boxes without a name.
        boxes: At least one box.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Raises:
        ValueError: A box is outside the image or has swapped corners, there is no box, or the name contains a tag.
    """
    _check_size(width, height)
    if not boxes:
        raise ValueError(f"{name!r} has no box")
    tag = next((tag for tag in _TAGS if tag in name), None)
    if tag is not None:
        raise ValueError(f"the name {name!r} contains the tag {tag}")
    written = []
    for box in boxes:
        x1, y1, x2, y2 = box
        if not (0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height):
            raise ValueError(
                f"the box {list(box)} is not inside an image of {width}x{height}, or its corners are swapped"
            )
        scaled = ((x1, width), (y1, height), (x2, width), (y2, height))
        written.append([min(SCALE, max(0, round(place / size * SCALE))) for place, size in scaled])
    reference = f"<ref>{name}</ref>" if name else ""
    return f"{reference}<box>{written}</box>"


def _colour(number: int) -> tuple[int, int, int]:
    """Returns well separated colours: consecutive hues differ by the golden ratio."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + number * 0.618034) % 1, 0.9, 0.8)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_groundings(image: Image.Image, groundings: Sequence[Grounding]) -> Image.Image:
    """Draws boxes and names on a copy of an image.

    Each grounding has its own colour. The name is drawn on that colour above the box, or inside the box if there is no
    space above. Names are omitted if one would cover half of the image's height. Pillow's default font only has Latin
    letters; others appear as empty boxes.

    Args:
        image: Any image.
        groundings: Groundings with boxes in pixels of this image; boxes are clipped to the image.

    Returns:
        An RGB image of the same size.
    """
    drawn = image.convert("RGB")
    draw = ImageDraw.Draw(drawn)
    side = min(drawn.size)
    line, font = max(1, round(side / 200)), ImageFont.load_default(max(12, round(side / 25)))
    for number, grounding in enumerate(groundings):
        for box in grounding.boxes:
            draw.rectangle(_inside(box, drawn.size), outline=_colour(number), width=line)
    for number, grounding in enumerate(groundings):  # after all boxes, so that none covers a name
        for box in grounding.boxes:
            _label(draw, grounding.name, _inside(box, drawn.size), drawn.size, _colour(number), font)
    return drawn


def _inside(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns the first and last pixel of a box in both directions, clipped to the image."""
    width, height = size
    left, top = (min(max(round(v), 0), s - 1) for v, s in ((box[0], width), (box[1], height)))
    right, bottom = (min(max(round(v) - 1, 0), s - 1) for v, s in ((box[2], width), (box[3], height)))
    return left, top, max(left, right), max(top, bottom)


def _label(
    draw: ImageDraw.ImageDraw,
    name: str,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    colour: tuple[int, int, int],
    font: _Font,
) -> None:
    space = 2
    text = _fitting(draw, " ".join(name.split()), font, size[0] - 2 * space)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    wide, high = round(right - left) + 2 * space, round(bottom - top) + 2 * space
    if not text or 2 * high > size[1]:  # the name would hide the box
        return
    x = min(box[0], size[0] - wide)
    y = box[1] - high if box[1] >= high else min(box[1], size[1] - high)
    draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=colour)
    red, green, blue = colour
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 130
    draw.text((x + space - left, y + space - top), text, fill=(0, 0, 0) if bright else (255, 255, 255), font=font)


def _fitting(draw: ImageDraw.ImageDraw, text: str, font: _Font, width: int) -> str:
    """Truncates a text to a width, with an ellipsis; "" if not even one letter fits."""
    text = text[:width]  # no letter is narrower than a pixel
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"{text}…", font) > width:
        text = text[:-1]
    return f"{text}…" if text else ""

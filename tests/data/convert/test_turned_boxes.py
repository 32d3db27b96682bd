"""Boxes of files before their EXIF orientation."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.convert.test_annotation_formats import ASK, SAY, USER, only
from mmcomponents.data.media.images import decode_image

BOX = (200, 100, 500, 350)
"""Thousandths of the file; the pixels inside are white."""


def turned(media: Path, orientation: int, name: str = "turned.png") -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[6:21, 18:45] = 255
    Image.fromarray(pixels).save(media / name, exif=exif)
    return media / name


def marked(path: Path, box: list[int]) -> bool:
    """Whether a box of the upright image is exactly its white region."""
    pixels = np.array(decode_image(path.read_bytes()).convert("L"))
    height, width = pixels.shape
    inside = np.zeros_like(pixels)
    inside[box[1] * height // 1000 : box[3] * height // 1000, box[0] * width // 1000 : box[2] * width // 1000] = 255
    return bool((pixels == inside).all())


def chat(box: Any = BOX, **more: Any) -> dict[str, Any]:
    turns = [ASK, {"from": "gpt", "value": f"<ref>it</ref><box>[{[*box]}]</box>"}]
    return {"image": "turned.png", "conversations": turns, **more}


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_in_texts_and_objects_turn_with_the_image(
    pack_lines: Callable[..., Any], media: Path, orientation: int
) -> None:
    path = turned(media, orientation)
    for sizes in ({"width": 90, "height": 60}, {"width_list": [180], "height_list": [120]}):
        record, _ = only(pack_lines, chat(**sizes))
        box = [int(number) for number in re.findall(r"\d+", record["messages"][1]["content"])]
        assert marked(path, box)
    assert (record["width_list"], record["height_list"]) == ([120], [180]), "the size of the upright image"
    turns = [USER, {"role": "assistant", "content": "<bbox>"}]
    for given in ({"bbox": [[18, 6, 45, 21]]}, {"bbox": [[0.2, 0.1, 0.5, 0.35]], "bbox_type": "norm1"}):
        sample = {"messages": turns, "images": ["turned.png"], "objects": given, "width": 90, "height": 60}
        record, _ = only(pack_lines, sample)
        box = [int(number) for number in re.findall(r"\d+", record["messages"][1]["content"])]
        assert marked(path, box)
        assert (record["width"], record["height"]) == (60, 90)


def test_what_cannot_be_turned_is_refused(pack_lines: Callable[..., Any], media: Path) -> None:
    turned(media, 6)
    size = {"width": 90, "height": 60}

    def reason(sample: dict[str, Any], **options: Any) -> str:
        note, _ = pack_lines([sample], **options)
        assert note.totals.turned_boxes == (not note.refused and sample.get("width") == 90 and "box" in str(sample))
        return "".join(refused["reason"] for refused in note.refused)

    assert reason(chat(**size)) == ""
    assert "the boxes are those of image 1 before its EXIF orientation" in reason(chat(**size), turned_boxes="refuse")
    told = "gives 640 x 480 as the size of image 1, which has 60 x 90: its boxes are those of another picture"
    assert told in reason(chat(width=640, height=480))
    several = chat(image=["turned.png", "one.png"], width_list=[90, 40], height_list=[60, 30])
    several["conversations"] = [{"from": "human", "value": "<image><image>?"}, several["conversations"][1]]
    assert "EXIF turns image 1 of 2 images: its boxes in the texts are unknown" in reason(several)
    for other in ("(100,200),(300,400)", "[0.1, 0.2, 0.3, 0.4]", '{"bbox_2d": [1, 2, 3, 4]}', "<box>(1,2),(3,4)</box>"):
        sample = {**chat(**size), "conversations": [ASK, {"from": "gpt", "value": other}]}
        note, _ = pack_lines([sample])
        assert "and boxes of a text are not read" in note.refused[0]["reason"]
    for declared in (
        {"width": "90", "height": "60"},
        {"image_width": 90, "image_height": 60},
        {**size, "width_list": None},
    ):
        note, _ = pack_lines([chat(**declared)])
        assert note.totals.turned_boxes == 1
    for fitting in ({}, {"width": 60, "height": 90}, {"width": 120, "height": 180}, {"width": None, "height": "9"}):
        assert reason(chat(**fitting)) == ""
    assert reason({"image": "turned.png", "conversations": [ASK, SAY], **size}) == "", "without boxes"


def test_pixels_refer_to_the_declared_size(pack_lines: Callable[..., Any], media: Path) -> None:
    turned(media, 1, "plain.png")
    turns = [USER, {"role": "assistant", "content": "<bbox>"}]
    sample = {"messages": turns, "images": ["plain.png"], "objects": {"bbox": [[36, 12, 90, 42]]}}
    record, _ = only(pack_lines, {**sample, "width": 180, "height": 120})
    box = [int(number) for number in re.findall(r"\d+", record["messages"][1]["content"])]
    assert marked(media / "plain.png", box)
    turned(media, 8)
    record, _ = only(pack_lines, {**sample, "images": ["turned.png"], "width": 180, "height": 120})
    box = [int(number) for number in re.findall(r"\d+", record["messages"][1]["content"])]
    assert marked(media / "turned.png", box)


def test_nearly_square_images_are_told_apart_by_their_exact_size(pack_lines: Callable[..., Any], media: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (101, 100)).save(media / "turned.png", exif=exif)
    for declared, count in (((101, 100), 1), ((100, 101), 0)):
        note, _ = pack_lines([chat(width=declared[0], height=declared[1])])
        assert note.totals.turned_boxes == count

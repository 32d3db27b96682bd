from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from mmcomponents.data.media.boxes import Grounding, draw_groundings, format_grounding, parse_groundings


def test_boxes_of_an_answer() -> None:
    text = (
        "Here: <ref>a dog</ref><box>[[100, 200, 500, 1000]]</box>, <ref> two cats </ref> <box>[ [0,0,1000,1000] ,[10,"
        "20,\n30,40] ]</box> and <box>[[1, 2, 3, 4]]</box>, <box>[5, 6, 7.5, 8]</box>; a <ref>word</ref> alone."
    )
    parsed = parse_groundings(text, 2000, 100)
    assert parsed.problems == []
    assert parsed.groundings == [
        Grounding("a dog", ((200, 20, 1000, 100),)),
        Grounding("two cats", ((0, 0, 2000, 100), (20, 2, 60, 4))),
        Grounding("", ((2, 0.2, 6, 0.4),)),
        Grounding("", ((10, 0.6, 15, 0.8),)),
    ]


@pytest.mark.parametrize(
    ("text", "boxes", "problem"),
    [
        ("<ref>dog</ref><box>[[1, 2, 3]]</box>", 0, "dog: '[[1, 2, 3]]' is not a list of"),
        ("<ref>dog</ref><box>[[1, 2, 3, 4], [5, 6]]</box>", 1, "is not a list of"),
        ("<box>[[1, 2, x, 4]]</box>", 0, "a box: '[[1, 2, x, 4]]' is not a list of"),
        ("<box></box>", 0, "no coordinates"),
        ("<box>[[]]</box>", 0, "no coordinates"),
        ("<box>[[1, 2, 1001, 4]]</box>", 0, "[1, 2, 1001, 4] is outside of 0 to 1000"),
        ("<box>[[-1, 2, 3, 4], [1, 2, 3, 4]]</box>", 1, "[-1, 2, 3, 4] is outside"),
        ("<box>[[5, 2, 3, 4]]</box>", 0, "its corners are swapped"),
        ("<ref>dog</ref><box>[[1, 2, 3, 4]]", 0, "unmatched <box> at '<box>[[1, 2, 3, 4]]'"),
        ("[[1, 2, 3, 4]]</box> dog", 0, "unmatched </box>"),
        ("<box><box>[[1, 2, 3, 4]]</box>", 1, "unmatched <box>"),
        ("<ref>dog <box>[[1, 2, 3, 4]]</box>", 1, "1 <ref> and 0 </ref>"),
        ("<box>[[1e999, 2, 3, 4]]</box>", 0, "is not a list of"),
    ],
)
def test_what_is_malformed_is_reported(text: str, boxes: int, problem: str) -> None:
    parsed = parse_groundings(text, 100, 100)
    assert sum(len(grounding.boxes) for grounding in parsed.groundings) == boxes
    assert any(problem in told for told in parsed.problems), parsed.problems


def test_no_text_crashes_or_takes_long() -> None:
    draw = random.Random(0)
    parts = [
        "<ref>",
        "</ref>",
        "<box>",
        "</box>",
        "[[",
        "]]",
        "[",
        "]",
        ",",
        "1",
        "999",
        "-",
        ".",
        " ",
        "é",
        "dog",
        "\n",
    ]
    for _ in range(500):
        parsed = parse_groundings("".join(draw.choices(parts, k=40)), 30, 20)
        for grounding in parsed.groundings:
            assert all(0 <= x1 <= x2 <= 30 and 0 <= y1 <= y2 <= 20 for x1, y1, x2, y2 in grounding.boxes)
    for text in ("<ref>" * 3000, "<box>[[1, 2, 3," * 3000, "<ref>" + "a" * 50_000, "[" * 50_000 + "<box>"):
        assert not parse_groundings(text, 30, 20).groundings


def test_there_and_back() -> None:
    assert format_grounding("a dog", [(200, 20, 1000, 100)], 2000, 100) == (
        "<ref>a dog</ref><box>[[100, 200, 500, 1000]]</box>"
    )
    assert format_grounding("", [(0, 0, 1, 1), (1, 1, 3, 3)], 3, 3) == (
        "<box>[[0, 0, 333, 333], [333, 333, 1000, 1000]]</box>"
    )
    draw = random.Random(0)
    for _ in range(200):
        width, height = draw.randint(1, 5000), draw.randint(1, 5000)
        boxes = []
        for _ in range(draw.randint(1, 4)):
            x1, x2 = sorted(draw.uniform(0, width) for _ in range(2))
            y1, y2 = sorted(draw.uniform(0, height) for _ in range(2))
            boxes.append((x1, y1, x2, y2))
        text = format_grounding("thing", boxes, width, height)
        parsed = parse_groundings(f"There is {text}.", width, height)
        assert parsed.problems == []
        (grounding,) = parsed.groundings
        off = np.abs(np.array(grounding.boxes) - np.array(boxes)) / [width, height, width, height]
        assert off.max() <= 0.0005 + 1e-9
        assert format_grounding("thing", grounding.boxes, width, height) == text


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 11, 5), (0, 6, 5, 5), (6, 0, 5, 5), (0, 0, 5, float("nan"))])
def test_boxes_outside_are_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"is not inside an image of 10x10"):
        format_grounding("dog", [box], 10, 10)


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(ValueError, match="contains the tag </ref>"):
        format_grounding("a</ref>", [(0, 0, 1, 1)], 10, 10)
    with pytest.raises(ValueError, match="has no box"):
        format_grounding("a", [], 10, 10)
    for call in (lambda: format_grounding("a", [(0, 0, 1, 1)], 0, 10), lambda: parse_groundings("", 10, 0)):
        with pytest.raises(ValueError, match="has no area"):
            call()


def test_a_drawing_shows_boxes_and_names() -> None:
    image = Image.new("RGB", (400, 300), (128, 128, 128))
    things = [Grounding("a dog", ((50, 60, 200, 200),)), Grounding("", ((220, 100, 380, 280),))]
    drawn = draw_groundings(image, things)
    assert drawn.size == image.size
    assert image.getextrema() == ((128, 128),) * 3, "the image itself stays"
    pixels = np.asarray(drawn).astype(int)
    changed = (pixels != 128).any(-1)
    first, second = pixels[199, 120], pixels[279, 300]
    assert changed[60:200, 50].all()
    assert changed[199, 50:200].all()
    assert changed[100:280, 379].all()
    assert np.abs(first - second).sum() > 100, "each thing has its colour"
    assert not changed[80:180, 70:180].any(), "boxes are not filled"
    label = pixels[40:60, 50:120]
    assert (label == first).all(-1).sum() > 200, "a name stands on its colour"
    assert (label > 200).all(-1).sum() > 15, "in white"
    assert not changed[:100, 230:].any(), "without a name there is no label"


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (12, 40), (40, 12), (60, 14), (3000, 20)])
def test_tiny_images_can_be_drawn_on(size: tuple[int, int]) -> None:
    thing = Grounding("a very long name of a thing " * 20, ((0, 0, *size), (-50, -50, -10, 5000)))
    drawn = draw_groundings(Image.new("L", size), [thing, Grounding("é\n你好", ((0, 0, *size),))])
    assert drawn.size == size
    assert np.asarray(drawn).any()

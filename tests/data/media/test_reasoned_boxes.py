"""Boxes with colours in reasoning texts."""

from __future__ import annotations

import re

import pytest

from mmcomponents.data.media.reasoned_boxes import ReasonedBox, check_box, parse_reasoning, replace_box

SUN = "<|box_start|>( 5, 6 ),(7,8)<|box_end|> (gold)"
OFFICIAL = f"A bus <|box_start|>(100,200),(300,400)<|box_end|> (red) and a sun {SUN}."


def test_written_boxes_are_read_again() -> None:
    box = ReasonedBox((100.0, 200.0, 300.5, 400.0), "red")
    found = parse_reasoning(f"a <ref>bus</ref>{box.written()}, and so on")
    assert found.boxes == [box]
    assert not found.problems
    assert box.rgb == (1.0, 0.0, 0.0)


def test_the_format_of_the_published_data_is_read() -> None:
    found = parse_reasoning(OFFICIAL)
    assert found.boxes == [
        ReasonedBox((100.0, 200.0, 300.0, 400.0), "red"),
        ReasonedBox((5.0, 6.0, 7.0, 8.0), "gold"),
    ]
    assert not found.problems


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<box>[[1, 2, 3]]</box> (red)", "is not <box>"),
        ("<box>[[1, 2, 3, 4]]<|box_end|> (red)", "is not <box>"),
        ("<box>[[5, 2, 3, 4]]</box> (red)", r"the box \[5, 2, 3, 4\] has swapped corners"),
        ("<box>[[1000, 2, 1200, 4]]</box> (red)", r"\[1000, 2, 1200, 4\] has no area within the picture"),
        ("<box>[[1, 2, 3, 4]]</box> (reddish)", "the colour 'reddish' is unknown: colours are those of CSS"),
        ("<box>[[1, 2, 3, 4]]</box>", "has no colour"),
        ("a <box>[[1, 2", "unmatched <box>"),
        ("1, 2]]</box>", "unmatched </box>"),
    ],
)
def test_what_is_malformed_is_told_and_left_out(text: str, problem: str) -> None:
    good = "<box>[[0, 0, 500, 500]]</box> (blue)"
    for whole in (text, f"{good} {text}"):
        found = parse_reasoning(whole)
        assert [box.colour for box in found.boxes] == ["blue"] * (whole != text)
        assert len(found.problems) == 1
        assert re.search(problem, found.problems[0])


def test_a_box_that_is_partly_outside_is_cut_off_and_told() -> None:
    found = parse_reasoning("<box>[[-50, 900, 100, 1100]]</box> (red)")
    assert [box.box for box in found.boxes] == [(0.0, 900.0, 100.0, 1000.0)]
    assert found.problems == ["the box [-50, 900, 100, 1100] is partly outside of the picture, 0 to 1000"]


def test_one_box_is_replaced_and_the_rest_stays() -> None:
    changed = replace_box(OFFICIAL, 1, ReasonedBox((0, 0, 10, 10), "green"))
    assert changed == OFFICIAL.replace(SUN, "<box>[[0, 0, 10, 10]]</box> (green)")
    with pytest.raises(ValueError, match="the reasoning has 2 boxes, and box 3 was named"):
        replace_box(OFFICIAL, 2, ReasonedBox((0, 0, 10, 10), "green"))
    with pytest.raises(ValueError, match=r"the box \[0, 0, 10, 1010\] is not within the picture, 0 to 1000"):
        replace_box(OFFICIAL, 0, ReasonedBox((0, 0, 10, 1010), "green"))


def test_boxes_outside_of_the_picture_are_refused() -> None:
    for box in ((0, 0, 0, 10), (-1, 0, 5, 5), (0, 0, float("nan"), 5)):
        with pytest.raises(ValueError, match="not within the picture, 0 to 1000"):
            check_box(box)


@pytest.mark.parametrize("colour", ["red", "#00f", "rgb(0, 0, 255)", "hsl(240,100%,50%)"])
def test_a_box_with_any_colour_is_read_as_it_was_written(colour: str) -> None:
    box = ReasonedBox((0.00001, 0.5, 333.333, 1000), colour)
    changed = replace_box(OFFICIAL, 0, box)
    found = parse_reasoning(changed)
    assert found.problems == []
    assert found.boxes[0] == ReasonedBox((0.0, 0.5, 333.333, 1000.0), colour)
    assert found.boxes[0].rgb == box.rgb
    assert len(found.boxes) == len(parse_reasoning(OFFICIAL).boxes)

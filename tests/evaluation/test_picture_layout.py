"""Things in the boxes of a reasoning text."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmcomponents.demos.shapes import draw_scene, make_scene
from mmcomponents.evaluation.picture_layout import MIN_IOU, located, overlaps

SCENES = [make_scene(np.random.default_rng(number)) for number in range(50)]


def test_colours_are_located_where_things_were_drawn() -> None:
    for scene in SCENES:
        found = located(np.asarray(draw_scene(scene)), [thing.colour for thing in scene.things], scene.ground)
        assert found == [thing.box for thing in scene.things]


def test_a_colour_that_is_not_there_is_not_located() -> None:
    assert located(np.zeros((4, 4, 3), np.uint8), ["red"], "black") == [None]
    with pytest.raises(ValueError, match="shape"):
        located(np.zeros((4, 4), np.uint8), ["red"], "black")


def test_things_overlap_their_boxes_on_any_ground() -> None:
    for scene in SCENES:
        found = overlaps(draw_scene(scene), scene.reasoning)
        assert found == overlaps(draw_scene(scene), scene.reasoning, scene.ground)
        assert len(found) == len(scene.things)
        assert min(found) > 0.9


def test_boxes_elsewhere_of_another_colour_or_twice_do_not_overlap() -> None:
    picture = Image.new("RGB", (40, 40), "white")
    picture.paste("red", (10, 10, 20, 20))
    assert overlaps(picture, "<box>[[250, 250, 500, 500]]</box> (red)") == [1.0]
    assert overlaps(picture, "<box>[[500, 500, 750, 750]]</box> (red)")[0] < MIN_IOU
    assert overlaps(picture, "<box>[[250, 250, 500, 500]]</box> (blue)")[0] < MIN_IOU
    twice = "<box>[[250, 250, 500, 500]]</box> (red) <box>[[0, 0, 100, 100]]</box> (red)"
    assert overlaps(picture, twice) == [0.0, 0.0]
    assert overlaps(picture, "a red square") == []
    assert overlaps(picture.resize((20, 20)), "<box>[[0, 0, 1000, 1000]]</box> (red)", "white")[0] < MIN_IOU


def test_a_thing_may_fill_the_picture() -> None:
    assert overlaps(Image.new("RGB", (64, 64), "red"), "<box>[[0, 0, 1000, 1000]]</box> (red)") == [1.0]

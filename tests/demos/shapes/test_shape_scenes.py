"""Scenes of coloured shapes."""

from __future__ import annotations

import numpy as np

from mmcomponents.data.media.boxes import SCALE
from mmcomponents.data.media.reasoned_boxes import parse_reasoning
from mmcomponents.demos.shapes import PLACES, make_scene
from mmcomponents.demos.shapes.shape_scenes import CELL, SIDE

SCENES = [make_scene(np.random.default_rng(number)) for number in range(100)]


def test_the_reasoning_has_the_boxes_and_the_request_their_places() -> None:
    for scene in SCENES:
        parsed = parse_reasoning(scene.reasoning)
        assert not parsed.problems
        for thing, box in zip(scene.things, parsed.boxes, strict=True):
            assert box.colour == thing.colour
            assert [round(value * SIDE / SCALE) for value in box.box] == list(thing.box)
            assert f"{thing.name} {PLACES[thing.place]}" in scene.request
            assert (thing.box[0] // CELL, thing.box[1] // CELL) == (thing.place % 3, thing.place // 3)
    bare = [make_scene(np.random.default_rng(number), unnamed=1.0) for number in range(20)]
    assert not any(place in scene.request for scene in bare for place in PLACES)


def test_scenes_differ() -> None:
    assert len({scene.request for scene in SCENES}) > 95
    assert {len(scene.things) for scene in SCENES} == {1, 2}
    for scene in SCENES:
        assert (
            len({thing.colour for thing in scene.things}) == len({t.place for t in scene.things}) == len(scene.things)
        )

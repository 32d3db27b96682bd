"""Boxes as JSON values and in a picture."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from mmcomponents.generation.found_boxes import FoundBox, draw_found

FOUND = [FoundBox(1, "cat", 0.9, (4.0, 20.0, 30.0, 50.0)), FoundBox(2, "dog", 0.2, (60.0, 60.0, 90.0, 90.0))]


def test_a_box_is_the_same_after_json() -> None:
    assert [FoundBox.of(json.loads(json.dumps(box.row()))) for box in FOUND] == FOUND


def test_boxes_of_a_low_score_are_not_drawn() -> None:
    empty = Image.new("RGB", (96, 96), "white")
    changed = (np.asarray(draw_found(empty, FOUND)) != 255).any(-1)
    assert changed[:58, :58].any()
    assert not changed[58:, 58:].any()
    assert (np.asarray(draw_found(empty, FOUND, 0.1)) != 255).any(-1)[58:, 58:].any()

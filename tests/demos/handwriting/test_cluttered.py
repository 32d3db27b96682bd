"""Cluttered scenes: boxes around the ink, limits of size and overlap, and equal draws."""

from __future__ import annotations

import numpy as np
import pytest

from mmcomponents.demos.handwriting.cluttered import ClutterStyle, draw_clutter
from mmcomponents.demos.handwriting.scenes import load_scans

SCANS, DIGITS = load_scans()


def scene(seed: int, style: ClutterStyle, vary: bool = True):
    return draw_clutter(SCANS, DIGITS, np.arange(100), style, np.random.default_rng(seed), vary)


def test_boxes_are_in_the_scene_and_as_large_as_digits() -> None:
    style, counts = ClutterStyle(), set()
    for seed in range(20):
        found = scene(seed, style)
        assert found.image.size == (96, 96)
        assert found.boxes.shape == (len(found.digits), 4)
        sides = found.boxes[:, 2:] - found.boxes[:, :2]
        assert found.boxes.min() >= 0
        assert found.boxes.max() <= 96
        assert sides.min() >= 1
        assert sides.max() <= 20
        counts.add(len(found.digits))
    assert max(counts) <= 30
    assert len(counts) > 8


def test_a_box_is_around_ink() -> None:
    style = ClutterStyle(counts=(1, 1), marks=0)
    grey = np.asarray(scene(3, style).image, np.float32)
    left, top, right, bottom = scene(3, style).boxes[0].astype(int)
    outside = grey.copy()
    outside[top:bottom, left:right] = 255
    assert grey[top:bottom, left:right].min() < 100
    assert outside.min() > grey[top:bottom, left:right].min() + 40


def test_equal_draws_give_equal_scenes() -> None:
    one, two, other = (scene(seed, ClutterStyle()) for seed in (1, 1, 2))
    assert one.image.tobytes() == two.image.tobytes() != other.image.tobytes()
    assert (one.boxes == two.boxes).all()


def test_styles_are_checked() -> None:
    with pytest.raises(ValueError, match=r"digit_size \(3, 20\) and side 96 must satisfy"):
        ClutterStyle(digit_size=(3, 20))
    with pytest.raises(ValueError, match=r"counts \(5, 2\) must ascend"):
        ClutterStyle(counts=(5, 2))

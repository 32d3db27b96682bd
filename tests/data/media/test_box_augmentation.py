"""Augmentation of images with boxes: the boxes stay on what they are around."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmcomponents.data.media.box_augmentation import BoxAugmentation

PLAIN = {"flip": 0.0, "crop": 0.0, "scale": 1.0}


def image(box: tuple[int, int, int, int]) -> torch.Tensor:
    """Returns an image of 40 x 60 pixels with ones in a box."""
    pixels = torch.zeros(1, 3, 40, 60)
    left, top, right, bottom = box
    pixels[:, :, top:bottom, left:right] = 1.0
    return pixels


def around(pixels: torch.Tensor) -> list[float]:
    """Returns the corners of what is more than half, as shares of the image."""
    rows, columns = (np.flatnonzero((pixels[0, 0] > 0.5).any(axis).numpy()) for axis in (1, 0))
    height, width = pixels.shape[-2:]
    return [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]


@pytest.mark.parametrize(
    "change", [{"flip": 1.0}, {"crop": 1.0}, {"scale": 0.5}, {"flip": 0.5, "crop": 0.5, "scale": 0.6}]
)
def test_boxes_stay_on_their_objects(change: dict[str, float]) -> None:
    box = (20, 10, 44, 30)
    boxes = np.array([box], np.float64) / np.array([60, 40, 60, 40])
    augment = BoxAugmentation(**{**PLAIN, **change})
    seen = 0
    for seed in range(30):
        pixels, moved, kept = augment(image(box), boxes, np.random.default_rng(seed))
        if len(kept):
            seen += 1
            assert moved[0] == pytest.approx(around(pixels), abs=1.5 / min(pixels.shape[-2:]))
        assert pixels.shape[-2] <= 40
        assert pixels.shape[-1] <= 60
    assert seen > 20


def test_boxes_outside_of_the_window_are_left_out_and_numbered() -> None:
    boxes = np.array([[0.0, 0.0, 0.05, 0.05], [0.4, 0.4, 0.6, 0.6], [0.95, 0.95, 1.0, 1.0]])
    augment = BoxAugmentation(**{**PLAIN, "crop": 1.0, "window": 0.5})
    found = [augment(image((0, 0, 1, 1)), boxes, np.random.default_rng(seed))[2].tolist() for seed in range(40)]
    assert all(1 in kept for kept in found)
    assert {0, 2} - {n for kept in found if len(kept) < 3 for n in kept} != {0, 2}
    assert min(len(kept) for kept in found) < 3


def test_equal_draws_give_equal_images() -> None:
    augment, boxes = BoxAugmentation(), np.array([[0.2, 0.2, 0.5, 0.5]])
    one, two = (augment(image((10, 10, 30, 30)), boxes, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert (one[1] == two[1]).all()


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="probabilities are from 0 to 1 and shares more than 0"):
        BoxAugmentation(scale=0.0)

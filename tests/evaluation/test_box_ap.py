"""Average precision of boxes, against values that follow from its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmcomponents.evaluation.box_ap import BoxesOfImage, box_ap
from mmcomponents.evaluation.box_evaluation import average_precision

pytest.importorskip("pycocotools", reason="needs mmcomponents[detection]")


def image(
    *boxes: tuple[float, ...], labels: list[int] | None = None, scores: list[float] | None = None
) -> BoxesOfImage:
    own = [0] * len(boxes) if labels is None else labels
    score = None if scores is None else np.array(scores)
    return BoxesOfImage(np.array(boxes, np.float64).reshape(-1, 4), np.array(own, np.int64), score)


SQUARE, OTHER = (0, 0, 10, 10), (50, 50, 90, 90)


def test_perfect_boxes() -> None:
    truth = [image(SQUARE, OTHER, labels=[0, 1]), image()]
    found = [image(SQUARE, OTHER, labels=[0, 1], scores=[0.9, 0.8]), image(scores=[])]
    values = box_ap(truth, found)
    assert math.isnan(values.pop("ap_large"))
    assert values == pytest.approx({"ap": 1.0, "ap50": 1.0, "ap75": 1.0, "ap_small": 1.0, "ap_medium": 1.0})


def test_an_overlap_counts_up_to_its_threshold() -> None:
    found = [image((0, 0, 10, 7.2), scores=[0.9])]  # IoU 0.72: right at 0.5 to 0.7
    values = box_ap([image(SQUARE)], found)
    assert {name: value for name, value in values.items() if not math.isnan(value)} == pytest.approx(
        {"ap": 0.5, "ap50": 1.0, "ap75": 0.0, "ap_small": 0.5}
    )


def test_a_wrong_box_with_a_higher_score_halves_the_precision() -> None:
    values = box_ap([image(SQUARE)], [image(OTHER, SQUARE, scores=[0.9, 0.5])])
    assert values["ap50"] == pytest.approx(0.5)
    assert box_ap([image(SQUARE)], [image(OTHER, SQUARE, scores=[0.4, 0.5])])["ap50"] == pytest.approx(1.0)


def test_small_boxes_are_those_up_to_an_area() -> None:
    truth, found = [image(SQUARE, OTHER)], [image(OTHER, scores=[0.9])]
    assert box_ap(truth, found, small=101.0)["ap_small"] == 0.0
    assert box_ap(truth, found, small=2000.0)["ap_small"] == pytest.approx(51 / 101)  # half of the recalls


def test_medium_boxes_have_up_to_nine_times_the_area() -> None:
    truth, found = [image(SQUARE, OTHER)], [image(OTHER, scores=[0.9])]  # areas of 100 and 1600
    assert box_ap(truth, found)["ap_medium"] == pytest.approx(1.0)
    assert box_ap(truth, found, small=170.0)["ap_large"] == pytest.approx(1.0)
    assert math.isnan(box_ap(truth, found, small=170.0)["ap_medium"])


def test_boxes_on_a_crowd_are_neither_right_nor_wrong() -> None:
    crowd = {"box": [50, 50, 90, 90], "label": 0, "area": 1600}
    true = {"boxes": [[*SQUARE]], "labels": [0], "size": [100, 100]}
    boxes = [{"box": [52, 52, 60, 60], "label": 0, "score": 0.9}, {"box": [*SQUARE], "label": 0, "score": 0.5}]
    assert average_precision([{"true": true, "boxes": boxes}])["ap50"] == pytest.approx(0.5)
    assert average_precision([{"true": {**true, "crowds": [crowd]}, "boxes": boxes}])["ap50"] == pytest.approx(1.0)


def test_the_area_is_that_of_the_object() -> None:
    true = {"boxes": [[*OTHER]], "labels": [0], "size": [100, 100], "areas": [900.0]}
    values = average_precision([{"true": true, "boxes": [{"box": [*OTHER], "label": 0, "score": 0.9}]}])
    assert values["ap_small"] == pytest.approx(1.0)
    assert math.isnan(values["ap_medium"])


def test_a_class_without_true_boxes_does_not_count_and_none_is_nan() -> None:
    values = box_ap([image(SQUARE)], [image(SQUARE, OTHER, labels=[0, 7], scores=[0.5, 0.9])])
    assert values["ap50"] == pytest.approx(1.0)
    assert math.isnan(box_ap([image()], [image(SQUARE, scores=[0.5])])["ap"])


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="true boxes of 2 images and predictions for 1"):
        box_ap([image(), image()], [image(scores=[])])
    with pytest.raises(ValueError, match="predictions need scores"):
        box_ap([image()], [image(SQUARE)])

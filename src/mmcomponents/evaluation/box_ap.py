"""Average precision of boxes as COCO defines it (Lin et al. 2014, arXiv 1405.0312), computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

SMALL = 32.0**2
"""Area in pixels below which COCO calls a box small."""


@dataclass(frozen=True)
class BoxesOfImage:
    """Boxes of an image.

    Attributes:
        corners: `[n, 4]` left, top, right, bottom in pixels.
        label: `[n]` class of each.
        score: `[n]` score of each; None for true boxes.
    """

    corners: Numbers
    label: npt.NDArray[np.int64]
    score: Numbers | None = None


def box_ap(
    truth: Sequence[BoxesOfImage], found: Sequence[BoxesOfImage], small: float = SMALL, most: int = 100
) -> dict[str, float]:
    """Returns the mean over classes of the average precision, from 0 to 1.

    Args:
        truth: True boxes of each image.
        found: Predicted boxes of each image, with scores.
        small: Area in pixels up to which a box counts for `ap_small`.
        most: Largest number of predictions of an image that count.

    Returns:
        `ap` (the mean over thresholds of the IoU of 0.5 to 0.95), `ap50`, `ap75` and `ap_small`; NaN where there is no
        true box.

    Raises:
        ValueError: The numbers of images differ, or predictions have no scores.
        ModuleNotFoundError: pycocotools is not installed.
    """
    if len(truth) != len(found):
        raise ValueError(f"true boxes of {len(truth)} images and predictions for {len(found)}")
    if any(image.score is None for image in found):
        raise ValueError("predictions need scores")
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "average precision of boxes needs pycocotools: pip install 'mmcomponents[detection]'"
        ) from error
    labels = sorted({int(label) for image in truth for label in image.label})
    if not labels:
        return dict.fromkeys(("ap", "ap50", "ap75", "ap_small"), float("nan"))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        known, answers = COCO(), COCO()
        for coco, images in ((known, truth), (answers, found)):
            coco.dataset = {
                "images": [{"id": number} for number in range(len(images))],
                "categories": [{"id": label} for label in labels],
                "annotations": _annotations(images),
            }
            coco.createIndex()
        evaluation = COCOeval(known, answers, "bbox")
        evaluation.params.maxDets = [1, 10, most]
        evaluation.params.areaRng = [[0, 1e10], [0, small]]
        evaluation.params.areaRngLbl = ["all", "small"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, :, 2]  # thresholds, recalls, classes, areas
    thresholds = evaluation.params.iouThrs
    at = {share: int(np.flatnonzero(np.isclose(thresholds, share))[0]) for share in (0.5, 0.75)}
    return {
        "ap": _mean(precision[:, :, :, 0]),
        "ap50": _mean(precision[at[0.5], :, :, 0]),
        "ap75": _mean(precision[at[0.75], :, :, 0]),
        "ap_small": _mean(precision[:, :, :, 1]),
    }


def _annotations(images: Sequence[BoxesOfImage]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for number, image in enumerate(images):
        scores = [None] * len(image.label) if image.score is None else image.score.tolist()
        for (left, top, right, bottom), label, score in zip(
            image.corners.tolist(), image.label.tolist(), scores, strict=True
        ):
            width, height = right - left, bottom - top
            row = {"id": len(rows) + 1, "image_id": number, "category_id": label, "iscrowd": 0}
            row |= {"bbox": [left, top, width, height], "area": width * height}
            rows.append(row if score is None else row | {"score": score})
    return rows


def _mean(values: Numbers) -> float:
    """Returns the mean of the values that are defined; pycocotools writes -1 for a class without true boxes."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")

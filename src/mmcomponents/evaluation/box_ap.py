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
"""Area in pixels up to which COCO calls an object small."""

FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""Names of the values of `box_ap`."""

_MEDIUM = 9
"""Largest area of a medium object, in those of a small one."""


@dataclass(frozen=True)
class BoxesOfImage:
    """Boxes of an image.

    Attributes:
        corners: `[n, 4]` left, top, right, bottom in pixels.
        label: `[n]` class of each.
        score: `[n]` score of each; None for true boxes.
        area: `[n]` area in pixels of each true object, by which it counts as small; None: that of its box.
        crowd: `[n]` whether a true box is around a crowd: found boxes within it are neither right nor wrong. None: none
            is.
    """

    corners: Numbers
    label: npt.NDArray[np.int64]
    score: Numbers | None = None
    area: Numbers | None = None
    crowd: npt.NDArray[np.bool_] | None = None


def box_ap(
    truth: Sequence[BoxesOfImage], found: Sequence[BoxesOfImage], small: float = SMALL, most: int = 100
) -> dict[str, float]:
    """Returns the mean over classes of the average precision, from 0 to 1.

    Args:
        truth: True boxes of each image.
        found: Predicted boxes of each image, with scores.
        small: Area in pixels up to which an object counts for `ap_small`. Up to nine times as much, it counts for
            `ap_medium`, and above for `ap_large`.
        most: Largest number of predictions of an image that count.

    Returns:
        `ap` (the mean over thresholds of the IoU of 0.5 to 0.95), `ap50`, `ap75`, `ap_small`, `ap_medium` and
        `ap_large`; NaN where there is no true box.

    Raises:
        ValueError: The numbers of images differ, or predictions have no scores.
        ModuleNotFoundError: pycocotools is not installed.
    """
    if len(truth) != len(found):
        raise ValueError(f"true boxes of {len(truth)} images and predictions for {len(found)}")
    if any(image.score is None for image in found):
        raise ValueError("predictions need scores")
    check_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    labels = sorted({int(label) for image in truth for label in image.label})
    if not labels:
        return dict.fromkeys(FIGURES, float("nan"))
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
        evaluation.params.areaRng = [[0, 1e10], [0, small], [small, _MEDIUM * small], [_MEDIUM * small, 1e10]]
        evaluation.params.areaRngLbl = ["all", "small", "medium", "large"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, :, 2]  # thresholds, recalls, classes, areas
    thresholds = evaluation.params.iouThrs
    at = {share: int(np.flatnonzero(np.isclose(thresholds, share))[0]) for share in (0.5, 0.75)}
    values = [precision[:, :, :, 0], precision[at[0.5], :, :, 0], precision[at[0.75], :, :, 0]]
    values += [precision[:, :, :, size] for size in (1, 2, 3)]
    return {name: _mean(value) for name, value in zip(FIGURES, values, strict=True)}


def check_pycocotools() -> None:
    """Checks that average precision can be computed.

    Raises:
        ModuleNotFoundError: pycocotools is not installed.
    """
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "average precision of boxes needs pycocotools: pip install 'mmcomponents[detection]'"
        ) from error


def _annotations(images: Sequence[BoxesOfImage]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for number, image in enumerate(images):
        scores = [None] * len(image.label) if image.score is None else image.score.tolist()
        sides = image.corners[:, 2:] - image.corners[:, :2]
        areas = sides.prod(axis=1) if image.area is None else image.area
        crowd = np.zeros(len(image.label), bool) if image.crowd is None else image.crowd
        boxes = np.concatenate((image.corners[:, :2], sides), axis=1)
        for box, label, score, area, is_crowd in zip(
            boxes.tolist(), image.label.tolist(), scores, areas.tolist(), crowd.tolist(), strict=True
        ):
            row = {"id": len(rows) + 1, "image_id": number, "category_id": label, "iscrowd": int(is_crowd)}
            row |= {"bbox": box, "area": area}
            rows.append(row if score is None else row | {"score": score})
    return rows


def _mean(values: Numbers) -> float:
    """Returns the mean of the values that are defined; pycocotools writes -1 for a class without true boxes."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")

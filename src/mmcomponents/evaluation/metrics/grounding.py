"""Grounding accuracy by intersection over union of boxes."""

from __future__ import annotations

from mmcomponents.data.media.boxes import SCALE, Box, map_boxes, parse_groundings
from mmcomponents.evaluation.metrics.base import Metric, Target


class GroundingIoU(Metric):
    """Accuracy of the first box: its IoU with a reference box is at least a threshold (RefCOCO).

    Coordinates are thousandths of the image, from 0 to 1000, as `<box>[[x1, y1, x2, y2]]</box>` or in brackets alone.
    Other coordinates are read as thousandths: fractions from 0 to 1 give a box in the corner, pixels a box elsewhere,
    both wrong. A box of a response that leaves the image is clipped to it, as RefCOCO's scorers do; one with swapped
    ends is ignored. The IoU of torchmetrics needs torchvision, which is not a dependency.

    Args:
        threshold: Smallest intersection over union (IoU) of a correct box.
    """

    title = "grounding accuracy"

    def __init__(self, threshold: float = 0.5) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be greater than 0 and at most 1, got {threshold}")
        self.threshold = threshold

    def extract(self, response: str, target: Target) -> str | None:
        """Returns the coordinates of the first box; None if there is no box."""
        found = boxes(response, clip=True)
        return ", ".join(f"{edge:g}" for edge in found[0]) if found else None

    def score(self, response: str, target: Target) -> float:
        """Returns 1 or 0; a response without a box is wrong."""
        found = boxes(response, clip=True)[:1]
        wanted = [box for reference in target.references for box in boxes(reference)]
        return float(any(iou(a, b) >= self.threshold for a in found for b in wanted))

    def check(self, target: Target) -> str:
        """Returns an error message if a reference has no box."""
        bad = next((reference for reference in target.references if not boxes(reference)), None)
        return "" if bad is None else f"the answer {bad!r:.60} has no box [x1, y1, x2, y2] from 0 to {SCALE}"


def boxes(text: str, clip: bool = False) -> list[Box]:
    """Returns the boxes of a text, in thousandths of the image.

    Args:
        text: Answer or reference with boxes.
        clip: Whether boxes that leave the image are clipped; otherwise they are left out.
    """
    if clip:
        text = map_boxes(text if "<box>" in text else f"<box>{text}</box>", _clipped)
    parsed = parse_groundings(text, SCALE, SCALE)
    if not parsed.groundings:  # boxes without tags
        parsed = parse_groundings(f"<box>{text}</box>", SCALE, SCALE)
    return [box for grounding in parsed.groundings for box in grounding.boxes]


def _clipped(box: Box) -> Box:
    x1, y1, x2, y2 = (min(max(edge, 0.0), float(SCALE)) for edge in box)
    return x1, y1, x2, y2


def iou(a: Box, b: Box) -> float:
    """Computes the intersection over union of two boxes; 0 if neither has an area."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, wide) * max(0.0, high)
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / either if either > 0 else 0.0

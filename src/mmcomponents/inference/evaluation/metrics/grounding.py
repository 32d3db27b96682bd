"""Grounding: whether a box is where it should be."""

from __future__ import annotations

from mmcomponents.data.grounding import SCALE, Box, parse_groundings
from mmcomponents.inference.evaluation.metrics.base import Metric, Target


class GroundingIoU(Metric):
    """The first box of the response covers a reference's box: intersection over union at least a threshold (RefCOCO).

    Boxes are thousandths of the image, from 0 to 1000, as `<box>[[x1, y1, x2, y2]]</box>` or in brackets alone.
    Anything else is measured as if it were that: shares from 0 to 1 are a box in the corner, and pixels a box
    elsewhere, both wrong; a box with an edge above 1000 or whose ends are swapped is none. torchmetrics measures
    boxes through torchvision, which nothing else here needs; the four lines are our own.

    Args:
        threshold: Smallest intersection over union that counts.
    """

    title = "accuracy of places"

    def __init__(self, threshold: float = 0.5) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is a share above 0, at most 1, got {threshold}")
        self.threshold = threshold

    def extract(self, response: str, target: Target) -> str | None:
        """The first box; None without one."""
        found = boxes(response)
        return ", ".join(f"{edge:g}" for edge in found[0]) if found else None

    def score(self, response: str, target: Target) -> float:
        """1 or 0; a response without a box is wrong."""
        found = boxes(response)[:1]
        wanted = [box for reference in target.references for box in boxes(reference)]
        return float(any(iou(a, b) >= self.threshold for a in found for b in wanted))

    def check(self, target: Target) -> str:
        """Each reference has to have a box."""
        bad = next((reference for reference in target.references if not boxes(reference)), None)
        return "" if bad is None else f"the answer {bad!r:.60} has no box [x1, y1, x2, y2] from 0 to {SCALE}"


def boxes(text: str) -> list[Box]:
    """The boxes of a text, in thousandths of the image."""
    parsed = parse_groundings(text, SCALE, SCALE)
    if not parsed.groundings:  # boxes without their tags
        parsed = parse_groundings(f"<box>{text}</box>", SCALE, SCALE)
    return [box for grounding in parsed.groundings for box in grounding.boxes]


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 where neither has an area."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, wide) * max(0.0, high)
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / either if either > 0 else 0.0

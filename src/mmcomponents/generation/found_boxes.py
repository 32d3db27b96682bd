"""Boxes that a detector found in an image, as a class, as JSON values and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from mmcomponents.data.media.boxes import Box, Grounding, draw_groundings

MIN_SCORE = 0.3
"""Least score of a box that is drawn."""


@dataclass(frozen=True)
class FoundBox:
    """A box that a model found.

    Attributes:
        label: Number of its class.
        name: Name of its class.
        score: Probability of the class.
        box: Left, top, right and bottom in pixels.
    """

    label: int
    name: str
    score: float
    box: Box

    def row(self) -> dict[str, object]:
        """Returns the box as a JSON value."""
        return {
            "label": self.label,
            "name": self.name,
            "score": round(self.score, 4),
            "box": [round(v, 2) for v in self.box],
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> FoundBox:
        """Returns the box of a JSON value that `row` has made."""
        left, top, right, bottom = row["box"]
        return cls(row["label"], row["name"], row["score"], (left, top, right, bottom))


def draw_found(image: Image.Image, found: Sequence[FoundBox], min_score: float = MIN_SCORE) -> Image.Image:
    """Draws boxes with the names of their classes on a copy of an image, those of a class in one colour.

    Args:
        image: Image that the boxes were found in; it is not changed.
        found: Its boxes.
        min_score: Least score of a box that is drawn.
    """
    shown = [box for box in found if box.score >= min_score]
    names = dict.fromkeys(box.name for box in shown)
    groundings = [Grounding(name, tuple(box.box for box in shown if box.name == name)) for name in names]
    return draw_groundings(image, groundings)

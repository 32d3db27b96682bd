"""Settings for reading annotations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["auto", "conversations", "preference", "messages", "text"]

Reasoning = Literal["refuse", "think"]
"""Treatment of reasoning beside an answer: skip the sample, or write it into the answer, within `<think>…</think>`."""

TurnedBoxes = Literal["turn", "refuse"]
"""Treatment of boxes of an image file before its EXIF orientation: turn them with the image, or skip the sample."""


@dataclass(frozen=True)
class Reading:
    """How annotations are read.

    Attributes:
        form: Form of the annotations; `auto` recognises it by the keys.
        keep_unknown_keys: Whether unknown keys are kept in the record instead of skipping the sample.
        reasoning: Treatment of the reasoning beside an answer, see `other_programs.reasoning`.
        turned_boxes: Treatment of boxes of an image file before its EXIF orientation, see `turned_boxes`.
    """

    form: Form = "auto"
    keep_unknown_keys: bool = False
    reasoning: Reasoning = "refuse"
    turned_boxes: TurnedBoxes = "turn"

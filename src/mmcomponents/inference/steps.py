"""Cutting an answer into the steps that a critic judges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

SEPARATOR = "\n\n"
"""Between two steps."""


class Split(Protocol):
    """Cuts an answer into what is judged, piece by piece."""

    def __call__(self, answer: str) -> list[str]:
        """The pieces; none of an empty answer."""
        ...


def split_steps(text: str, max_steps: int | None) -> list[str]:
    """Cuts a text into paragraphs, and joins neighbours where these are too many (VisualPRM, arXiv 2503.10291, 3.1).

    Blank lines separate paragraphs, also those that hold white space, and several in a row. n paragraphs, more than
    `max_steps`, are joined in groups of ceil(n / max_steps), so that there may be fewer steps than allowed.

    Args:
        text: An answer.
        max_steps: Steps at most; None: every paragraph is a step.

    Returns:
        The steps without blank lines around them; joined by a blank line they are the text again, where its paragraphs
        were separated by one blank line each.

    Raises:
        ValueError: `max_steps` is not positive.
    """
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    runs = groupby(lines, key=lambda line: bool(line.strip()))
    paragraphs = ["\n".join(run).rstrip() for filled, run in runs if filled]
    size = 1 if max_steps is None else max(1, math.ceil(len(paragraphs) / max_steps))
    return [SEPARATOR.join(paragraphs[first : first + size]) for first in range(0, len(paragraphs), size)]


@dataclass(frozen=True)
class ProcessSteps:
    """Each step is judged: a process reward.

    Attributes:
        max_steps: See `split_steps`; VisualPRM's own is 12.
    """

    max_steps: int | None = 12

    def __call__(self, answer: str) -> list[str]:
        """The steps."""
        return split_steps(answer, self.max_steps)


@dataclass(frozen=True)
class WholeAnswer:
    """The answer is judged as a whole: an outcome reward."""

    def __call__(self, answer: str) -> list[str]:
        """The answer as its only step."""
        return [answer] if answer.strip() else []

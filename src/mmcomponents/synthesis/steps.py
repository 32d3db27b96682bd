"""Splitting of answers into the steps that a critic scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

SEPARATOR = "\n\n"
"""Separator of steps."""


class Split(Protocol):
    """Splits an answer into the steps that are scored."""

    def __call__(self, answer: str) -> list[str]:
        """Returns the steps; an empty answer has none."""
        ...


def split_steps(text: str, max_steps: int | None) -> list[str]:
    """Splits a text into paragraphs and joins neighbours if there are too many (VisualPRM, arXiv 2503.10291, 3.1).

    Paragraphs are separated by one or more blank lines, which may contain whitespace. More than `max_steps` paragraphs
    are joined in groups of ceil(n / max_steps), so there may be fewer steps than allowed.

    Args:
        text: An answer.
        max_steps: Maximum number of steps; None: every paragraph is a step.

    Returns:
        The steps without surrounding blank lines. Joined by blank lines they equal the text, if its paragraphs were
        separated by one blank line each.

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
    """Scores each step: a process reward.

    Attributes:
        max_steps: See `split_steps`; VisualPRM uses 12.
    """

    max_steps: int | None = 12

    def __call__(self, answer: str) -> list[str]:
        """Returns the steps of the answer."""
        return split_steps(answer, self.max_steps)


@dataclass(frozen=True)
class WholeAnswer:
    """Scores the complete answer: an outcome reward."""

    def __call__(self, answer: str) -> list[str]:
        """Returns the answer as the only step."""
        return [answer] if answer.strip() else []

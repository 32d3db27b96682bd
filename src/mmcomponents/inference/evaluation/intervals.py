"""How sure a figure is: 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z = 1.959963984540054
"""Deviations of a normal distribution between which 95 % of it lie."""


def interval(marks: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean of marks from 0 to 1.

    Where each is 0 or 1 it is Wilson's (1927), which holds for few questions too; else that of a normal distribution.

    Args:
        marks: One for each question.

    Raises:
        ValueError: There is none.
    """
    count = len(marks)
    if not count:
        raise ValueError("an interval needs one question at least")
    mean = sum(marks) / count
    if all(mark in (0.0, 1.0) for mark in marks):
        scale = 1 + Z * Z / count
        middle = (mean + Z * Z / (2 * count)) / scale
        half = Z / scale * math.sqrt(mean * (1 - mean) / count + Z * Z / (4 * count * count))
    else:
        middle = mean
        spread = sum((mark - mean) ** 2 for mark in marks) / max(count - 1, 1)
        half = Z * math.sqrt(spread / count)
    # in floating point, the interval of only wrong answers may begin a hair above 0
    return min(mean, max(0.0, middle - half)), max(mean, min(1.0, middle + half))

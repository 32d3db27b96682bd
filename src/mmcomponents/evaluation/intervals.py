"""95 % confidence intervals of a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z = 1.959963984540054
"""Number of standard deviations around the mean that contain 95 % of a normal distribution."""


def interval(marks: Sequence[float]) -> tuple[float, float]:
    """Computes the 95 % confidence interval of the mean of scores from 0 to 1.

    If every score is 0 or 1, this is Wilson's interval (1927), which is also valid for few questions; else it is the
    interval of a normal distribution.

    Args:
        marks: Score of each question.

    Raises:
        ValueError: There are no scores.
    """
    count = len(marks)
    if not count:
        raise ValueError("an interval needs at least one question")
    mean = sum(marks) / count
    if all(mark in (0.0, 1.0) for mark in marks):
        scale = 1 + Z * Z / count
        middle = (mean + Z * Z / (2 * count)) / scale
        half = Z / scale * math.sqrt(mean * (1 - mean) / count + Z * Z / (4 * count * count))
    else:
        middle = mean
        spread = sum((mark - mean) ** 2 for mark in marks) / max(count - 1, 1)
        half = Z * math.sqrt(spread / count)
    # rounding: the interval of only wrong answers may start slightly above 0
    return min(mean, max(0.0, middle - half)), max(mean, min(1.0, middle + half))

"""Growth of the processor time of a function with the length of its input, which other processes do not change."""

from __future__ import annotations

import time
from collections.abc import Callable

LONGER = 16
"""Factor between the two lengths: a quadratic function takes 256 times as long, a linear one 16 times."""
MOST = 80.0
"""Largest growth of a function that counts as linear."""


def growth(call: Callable[[str], object], text: Callable[[int], str], length: int) -> float:
    """Returns how many times as long a call takes on a text of a length as on one that is `LONGER` times shorter.

    Args:
        call: The function.
        text: Returns a text of about a length.
        length: Length of the longer text.
    """
    short, long = (_fastest(call, text(n)) for n in (length // LONGER, length))
    return long / max(short, 1e-5)  # what is shorter is no more than the call itself


def _fastest(call: Callable[[str], object], text: str) -> float:
    times = []
    for _ in range(3):
        begin = time.thread_time()
        call(text)
        times.append(time.thread_time() - begin)
    return min(times)

"""Largest sizes that parts accept. A larger one is an error, which is reported before it costs time and memory."""

from __future__ import annotations

import math
from numbers import Integral, Real
from reprlib import repr as shortened
from typing import Any, get_args

MAX_LAYERS = 1_000
"""Layers of a part; the deepest released language models have 126."""
MAX_WIDTH = 1_000_000
"""Widths, numbers of heads, sides of images and patches in pixels."""
MAX_ROWS = 1_000_000_000
"""Vocabulary sizes and numbers of positions."""
MAX_TILES = 4_096
"""Tiles of an image; the published settings are 12 to 40."""


def check_sizes(most: int = MAX_WIDTH, **sizes: object) -> None:
    """Checks that sizes are whole numbers from 1 to a limit.

    Args:
        most: The limit.
        sizes: Sizes by name.

    Raises:
        ValueError: One is not; the message has its name and value.
    """
    for name, value in sizes.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise ValueError(f"{name} must be a whole number, got {shortened(value)}")
        if not 1 <= int(value) <= most:
            raise ValueError(f"{name} must be from 1 to {most:,}, got {shortened(value)}")


def check_choices(**choices: tuple[object, Any]) -> None:
    """Checks that values are among those of their types.

    Args:
        choices: Value and type, a `Literal`, by name.

    Raises:
        ValueError: One is not; the message has its name, its value and all choices.
    """
    for name, (value, kind) in choices.items():
        accepted = get_args(kind)
        if value not in accepted:
            shown = repr(accepted[0]) if len(accepted) == 1 else f"one of {', '.join(map(repr, accepted))}"
            raise ValueError(f"{name} must be {shown}, got {shortened(value)}")


def check_numbers(least: float = 0.0, **numbers: object) -> None:
    """Checks that numbers are finite and not below a limit.

    Args:
        least: The limit.
        numbers: Numbers by name.

    Raises:
        ValueError: One is not; the message has its name and value.
    """
    for name, value in numbers.items():
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or value < least:
            raise ValueError(f"{name} must be a finite number of at least {least:g}, got {shortened(value)}")

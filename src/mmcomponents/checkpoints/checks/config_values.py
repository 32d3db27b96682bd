"""Numbers of the configurations of other projects, checked as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcomponents.limits import MAX_WIDTH, check_numbers, check_sizes


def integer(config: Mapping[str, Any], key: str, default: int | None = None, most: int = MAX_WIDTH) -> int:
    """Returns a size.

    Args:
        config: The configuration.
        key: Key of the size.
        default: Value if the key is missing; None: the key is required.
        most: Largest size.

    Raises:
        KeyError: A required key is missing.
        ValueError: The value is not a whole number from 1 to `most`.
    """
    value: int = config[key] if default is None else config.get(key, default)
    check_sizes(most, **{key: value})
    return value


def number(config: Mapping[str, Any], key: str, default: float) -> float:
    """Returns a number that is finite and not negative.

    Args:
        config: The configuration.
        key: Key of the number.
        default: Value if the key is missing.

    Raises:
        ValueError: The value is not such a number.
    """
    value: float = config.get(key, default)
    check_numbers(**{key: value})
    return float(value)

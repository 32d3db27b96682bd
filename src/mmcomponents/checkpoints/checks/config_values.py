"""Values of the configurations of other projects, checked as they are read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.limits import MAX_WIDTH, check_numbers, check_sizes

log = logging.getLogger(__name__)


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


def merged_patches(config: Mapping[str, Any]) -> int:
    """Returns the rows and columns of patches that `downsample_ratio` merges into one visual token.

    Raises:
        CheckpointError: They are not whole.
        ValueError: The ratio is no number.
    """
    ratio = number(config, "downsample_ratio", 0.5)
    rows = round(1 / ratio) if ratio else 0
    if not rows or abs(rows * ratio - 1) > 1e-6:
        raise CheckpointError(f"downsample_ratio {ratio:g} is not 1 / n for a whole n")
    return rows


def only(config: Mapping[str, Any], where: str, **supported: object) -> None:
    """Checks settings of which this library supports one value, which is also their default.

    Args:
        config: The configuration.
        where: What it configures, for the message.
        supported: Setting -> its value.

    Raises:
        CheckpointError: A setting has another value.
    """
    for key, value in supported.items():
        if (given := config.get(key, value)) != value:
            raise CheckpointError(f"{key} {given} of the {where} is not supported, only {value}")


def warn_of_dropout(config: Mapping[str, Any], where: str) -> None:
    """Warns of a dropout probability, which training here does not apply; answers do not depend on it."""
    for key, value in config.items():
        if key.endswith(("dropout", "dropout_prob")) and value:
            log.warning("%s %s of the %s is not applied in training", key, value, where)


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

"""Log lines of the command: untrusted text in them is made safe for a terminal."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmcomponents.plain_text import plain_line
from mmcomponents.registry import PartWarning


class PlainFormatter(logging.Formatter):
    """Formats a record as its message in one line, in which control characters are spelled out."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        return plain_line(super().formatMessage(record))


_NOISE = ("GPU available: ", "TPU available: ", "HPU available: ", "💡 Tip:")
"""Beginnings of lines of Lightning that say nothing about the run."""

_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode",  # those of frozen slots
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"Experiment logs directory .* exists and is not empty",  # that of TensorBoard
    r"`loftq_config` specified but will be ignored",  # a resolved recipe contains all defaults of peft.LoraConfig
)


@contextmanager
def less_noise() -> Iterator[None]:
    """Drops lines of other libraries that are no use to a user of the command, inside the block."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addFilter(_is_no_noise)
    try:
        with warnings.catch_warnings():
            for message in _WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            warnings.showwarning = _in_one_line(warnings.showwarning)  # the context above puts the former one back
            yield
    finally:
        logger.removeFilter(_is_no_noise)


def _in_one_line(show: Callable[..., None]) -> Callable[..., None]:
    """Returns a function that shows warnings of installed packages without the place in this library."""

    def shown(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, PartWarning):
            sys.stderr.write(f"mmcomponents: {plain_line(str(message))}\n")
        else:
            show(message, category, *place, **more)

    return shown


def _is_no_noise(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_NOISE)


@contextmanager
def plain_logs(logger: logging.Logger) -> Iterator[None]:
    """Writes the messages of a logger and those below it to standard error, safe for a terminal, inside the block.

    A program that has set handlers of its own keeps them, and nothing is added.
    """
    if logger.hasHandlers():
        yield
        return
    handler, propagate = logging.StreamHandler(), logger.propagate
    handler.setFormatter(PlainFormatter())
    logger.addHandler(handler)
    logger.propagate = False  # a library may set up the root logger later, which would write each line again
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate

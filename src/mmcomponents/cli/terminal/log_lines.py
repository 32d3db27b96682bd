"""Log lines of the command: untrusted text in them is made safe for a terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mmcomponents.plain_text import plain_line


class PlainFormatter(logging.Formatter):
    """Formats a record as its message in one line, in which control characters are spelled out."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        return plain_line(super().formatMessage(record))


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

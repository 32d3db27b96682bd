"""What can be wrong with a checkpoint."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that is missing, broken, unknown, or that a format cannot express; the message is one line."""


class UnknownFormatError(CheckpointError):
    """A folder whose model is of none of the known formats."""

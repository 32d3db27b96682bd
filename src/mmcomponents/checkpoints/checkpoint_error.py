"""Errors of reading and writing checkpoints."""

from __future__ import annotations


class CheckpointError(ValueError):
    """Raised when a checkpoint is missing, broken, unknown, or cannot be expressed in a format, with one line."""


class UnknownFormatError(CheckpointError):
    """Raised when the model of a folder is of no known format."""

"""Errors of the data pipeline."""

from __future__ import annotations

from pathlib import Path


class SampleError(ValueError):
    """A single sample cannot be used. It is skipped and counted; the message is the reason, without shard and key."""


class DataError(ValueError):
    """The data cannot be used: files are missing, an index does not match, or too many samples are unusable."""


def demo_kind(path: str | Path) -> str:
    """Returns the kind of data of `mmcomponents data KIND` that a missing path is named after, else "handwriting"."""
    return next((kind for kind in ("pictures", "tabletop") if kind in Path(path).parts), "handwriting")

"""Errors of the data pipeline."""

from __future__ import annotations


class SampleError(ValueError):
    """A single sample cannot be used. It is skipped and counted; the message is the reason, without shard and key."""


class DataError(ValueError):
    """The data cannot be used: files are missing, an index does not match, or too many samples are unusable."""

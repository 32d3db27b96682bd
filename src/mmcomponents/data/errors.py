"""What can be wrong with data."""

from __future__ import annotations


class SampleError(ValueError):
    """One sample cannot be used. It is left out and counted; the message says why, without shard and key."""


class DataError(ValueError):
    """The data as a whole cannot be used: files are missing, an index does not fit, or too many samples are bad."""

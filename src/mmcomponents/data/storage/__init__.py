"""Reads of byte ranges of shards on local disks, HTTP servers and object stores.

    path, https://…, s3://…, pipe:COMMAND ── store_of ──► Store ── read_ranges ──► bytes

Transient errors are retried; messages contain addresses without secrets.
"""

from mmcomponents.data.storage.access import (
    check_ranges,
    exists,
    expand,
    is_remote,
    read_ranges,
)
from mmcomponents.data.storage.base import MissingError, Retry, StorageError, check_member_name, redact
from mmcomponents.data.storage.local import compressed_tars
from mmcomponents.data.storage.local_copies import fetch

__all__ = [
    "MissingError",
    "Retry",
    "StorageError",
    "check_member_name",
    "check_ranges",
    "compressed_tars",
    "exists",
    "expand",
    "fetch",
    "is_remote",
    "read_ranges",
    "redact",
]

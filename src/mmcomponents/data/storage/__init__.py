"""Where shards lie: local disks, HTTP servers, object stores behind fsspec, the output of commands."""

from mmcomponents.data.storage.access import (
    check_ranges,
    exists,
    expand,
    file_size,
    is_remote,
    read_range,
    read_ranges,
)
from mmcomponents.data.storage.base import DEFAULT_RETRY, MissingError, Retry, StorageError, check_member_name, redact
from mmcomponents.data.storage.cache import fetch
from mmcomponents.data.storage.local import compressed_tars

__all__ = [
    "DEFAULT_RETRY",
    "MissingError",
    "Retry",
    "StorageError",
    "check_member_name",
    "check_ranges",
    "compressed_tars",
    "exists",
    "expand",
    "fetch",
    "file_size",
    "is_remote",
    "read_range",
    "read_ranges",
    "redact",
]

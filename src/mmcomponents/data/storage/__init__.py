"""Where shards lie: local disks, HTTP servers, object stores behind fsspec, the output of commands."""

from mmcomponents.data.storage.access import exists, expand, file_size, is_remote, read_range, read_ranges
from mmcomponents.data.storage.base import DEFAULT_RETRY, MissingError, Retry, StorageError, check_member_name, redact
from mmcomponents.data.storage.cache import fetch

__all__ = [
    "DEFAULT_RETRY",
    "MissingError",
    "Retry",
    "StorageError",
    "check_member_name",
    "exists",
    "expand",
    "fetch",
    "file_size",
    "is_remote",
    "read_range",
    "read_ranges",
    "redact",
]

"""Selection of the store of an address, and the functions that read shards and indexes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from braceexpand import braceexpand

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.base import DEFAULT_RETRY, MissingError, Retry, StorageError, Store, redact
from mmcomponents.data.storage.http import HttpStore
from mmcomponents.data.storage.local import LocalStore
from mmcomponents.data.storage.pipe import PipeStore, check_allowed
from mmcomponents.data.storage.remote import RemoteStore

# Maximum number of files of a pattern. A typo in a brace range must not exhaust the memory.
MOST_FILES = 1_000_000
# Maximum number of missing files per server in `check_ranges`; if all are missing, reading them raises the error.
ASKED = 3


def is_remote(url: str) -> bool:
    """Whether an address is neither a plain path nor a `file://` URL."""
    return not isinstance(store_of(url), LocalStore)


def store_of(url: str) -> Store:
    """Returns the store for the scheme of an address."""
    if url.startswith("pipe:"):
        return PipeStore()
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.:-]*)://", url)
    if scheme is None or scheme[1].lower() == "file":
        return LocalStore()
    return HttpStore() if scheme[1].lower() in ("http", "https") else RemoteStore()


def read_ranges(url: str, ranges: Sequence[tuple[int, int]], retry: Retry = DEFAULT_RETRY) -> list[bytes]:
    """Reads (offset, size) ranges of one file, in any order; adjacent ranges share a request.

    Raises:
        StorageError: A range cannot be read.
        DataError: The address is a `pipe:` command, or its scheme has no driver.
    """
    for offset, size in ranges:
        if offset < 0 or size < 0:
            raise StorageError(f"{redact(url)} has no {size} bytes at {offset}")
    return store_of(url).read_ranges(url, ranges, retry)


def exists(url: str, retry: Retry = DEFAULT_RETRY) -> bool:
    """Whether a file exists. False only if the store reports it as missing.

    Raises:
        StorageError: The request fails.
    """
    try:
        store_of(url).facts(url, retry)
    except MissingError:
        return False
    return True


def check_ranges(urls: Sequence[str], retry: Retry = DEFAULT_RETRY) -> None:
    """Checks that servers support range requests, by requesting one byte of the first existing file of each server.

    Raises:
        DataError: A request fails, or a server only sends complete files.
    """
    asked = Counter[str]()
    for url in urls:
        if not is_remote(url) or asked[server := _server_of(url)] >= ASKED:
            continue
        try:
            store_of(url).check_ranges(url, retry)
            asked[server] = ASKED
        except MissingError:  # the next file of this server is checked
            asked[server] += 1
        except StorageError as error:
            raise DataError(str(error)) from error


def _server_of(url: str) -> str:
    """Returns scheme and host of an address, in lower case and without user and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest)[0].rpartition('@')[2]}".lower()


def expand(pattern: str, *, allow_pipe: bool = False, retry: Retry = DEFAULT_RETRY) -> list[str]:
    """Returns the files that match a pattern.

    Shell braces, `{000000..000099}` or `{a,b}`, are supported everywhere; globs and folders (the `*.tar` in them) on
    disks and in stores that support listing. Local files must exist; the existence of remote files is not checked.

    Args:
        pattern: A path or an address.
        allow_pipe: Whether `pipe:COMMAND` is allowed.
        retry: Retry settings for listing.

    Raises:
        DataError: No file matches, a brace is unmatched, or the store does not support listing.
        StorageError: Listing fails.
    """
    check_allowed(pattern, allow_pipe)
    if not is_remote(pattern) and Path(pattern).exists():
        return store_of(pattern).expand(pattern, retry)  # the name itself may contain braces
    try:
        # Without escapes: Windows paths and commands contain backslashes.
        names = list(islice(braceexpand(pattern, escape=False), MOST_FILES + 1))
    except ValueError:
        raise DataError(f"{redact(pattern)} has an unmatched brace") from None
    if len(names) > MOST_FILES:
        raise DataError(f"{redact(pattern)} expands to more than {MOST_FILES} files")
    return [file for name in names for file in store_of(name).expand(name, retry)]

"""Reading by address: which store it is, and the functions that shards and indexes are read with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from braceexpand import braceexpand

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.base import DEFAULT_RETRY, MissingError, Retry, StorageError, Store, redact
from mmcomponents.data.storage.cloud import CloudStore
from mmcomponents.data.storage.http import HttpStore
from mmcomponents.data.storage.local import LocalStore
from mmcomponents.data.storage.pipe import PipeStore, check_allowed

# A slip in a range of braces must not fill the memory with names.
MOST_FILES = 1_000_000
# Files of one server that are asked for until one is there; where all are missing, that is told when they are read.
ASKED = 3


def is_remote(url: str) -> bool:
    """True for all that is no plain path and no `file://`."""
    return not isinstance(store_of(url), LocalStore)


def store_of(url: str) -> Store:
    """The store that an address belongs to, by its scheme."""
    if url.startswith("pipe:"):
        return PipeStore()
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.:-]*)://", url)
    if scheme is None or scheme[1].lower() == "file":
        return LocalStore()
    return HttpStore() if scheme[1].lower() in ("http", "https") else CloudStore()


def read_range(url: str, offset: int, size: int, retry: Retry = DEFAULT_RETRY) -> bytes:
    """Reads exactly `size` bytes from `offset`.

    Raises:
        StorageError: They cannot be had.
        DataError: A `pipe:` address, a scheme without a driver.
    """
    return read_ranges(url, [(offset, size)], retry)[0]


def read_ranges(url: str, ranges: Sequence[tuple[int, int]], retry: Retry = DEFAULT_RETRY) -> list[bytes]:
    """Reads (offset, size) pairs of one file, in any order; neighbours come in one request.

    Raises:
        StorageError: One of them cannot be had.
        DataError: A `pipe:` address, a scheme without a driver.
    """
    for offset, size in ranges:
        if offset < 0 or size < 0:
            raise StorageError(f"{redact(url)} has no {size} bytes at {offset}")
    return store_of(url).read_ranges(url, ranges, retry)


def file_size(url: str, retry: Retry = DEFAULT_RETRY) -> int:
    """Bytes of a file.

    Raises:
        MissingError: It is not there.
        StorageError: The store cannot be asked, or does not know.
    """
    size = store_of(url).facts(url, retry).size
    if size is None:
        raise StorageError(f"{redact(url)}: the store does not say how large it is")
    return size


def exists(url: str, retry: Retry = DEFAULT_RETRY) -> bool:
    """Whether a file is there. False only if the store says so.

    Raises:
        StorageError: The store cannot be asked.
    """
    try:
        store_of(url).facts(url, retry)
    except MissingError:
        return False
    return True


def check_ranges(urls: Sequence[str], retry: Retry = DEFAULT_RETRY) -> None:
    """Makes sure that servers send parts of files: asks each server for one byte of the first file that it has.

    Raises:
        DataError: A server cannot be asked, or only sends whole files.
    """
    asked = Counter[str]()
    for url in urls:
        if not is_remote(url) or asked[server := _server_of(url)] >= ASKED:
            continue
        try:
            store_of(url).check_ranges(url, retry)
            asked[server] = ASKED
        except MissingError:  # of this file: another one tells
            asked[server] += 1
        except StorageError as error:
            raise DataError(str(error)) from error


def _server_of(url: str) -> str:
    """What an address begins with up to its server, in small letters and without a user."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest)[0].rpartition('@')[2]}".lower()


def expand(pattern: str, *, allow_pipe: bool = False, retry: Retry = DEFAULT_RETRY) -> list[str]:
    """The files that a pattern stands for.

    Braces as the shell has them, `{000000..000099}` or `{a,b}`, everywhere; globs and folders (the `*.tar` in them)
    on disks and in stores that can be listed. Local files have to be there; others are not asked for.

    Args:
        pattern: A path or an address.
        allow_pipe: Whether `pipe:COMMAND` may stand there.
        retry: How patient listing is.

    Raises:
        DataError: Nothing is there, the braces are not closed, or the place cannot be listed.
        StorageError: The store cannot be asked.
    """
    check_allowed(pattern, allow_pipe)
    if not is_remote(pattern) and Path(pattern).exists():
        return store_of(pattern).expand(pattern, retry)  # a name may hold braces of its own
    try:
        # Without escapes: a backslash is part of a path on Windows, and of many a command.
        names = list(islice(braceexpand(pattern, escape=False), MOST_FILES + 1))
    except ValueError:
        raise DataError(f"{redact(pattern)} has a brace without its other half") from None
    if len(names) > MOST_FILES:
        raise DataError(f"{redact(pattern)} stands for more than {MOST_FILES} files")
    return [file for name in names for file in store_of(name).expand(name, retry)]

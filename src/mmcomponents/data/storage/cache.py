"""Whole files of other places, kept on a local disk."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path
from urllib.parse import unquote

from filelock import FileLock

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.access import is_remote, store_of
from mmcomponents.data.storage.base import DEFAULT_RETRY, Facts, Retry, redact
from mmcomponents.data.storage.local import local_path
from mmcomponents.data.storage.pipe import PipeStore, check_allowed


def fetch(url: str, folder: str | Path, *, allow_pipe: bool = False, retry: Retry = DEFAULT_RETRY) -> Path:
    """Brings a file to a local folder, once.

    The name is made of the address, of what the store says of the content (ETag or time, and size), and of the last
    part of the address. A file that has changed gets a new name, so whoever still reads the old one is left in peace.
    Several processes may ask for one file: one brings it, the others wait.

    Args:
        url: A local file is returned as it is.
        folder: Made if it is missing.
        allow_pipe: Whether `pipe:COMMAND` may be run; its output is kept, and the command not run again.
        retry: How patient reading is.

    Raises:
        StorageError: The file cannot be read.
        DataError: The folder cannot be written, or a `pipe:` address is not allowed.
    """
    check_allowed(url, allow_pipe)
    store = store_of(url)
    if not is_remote(url):
        store.facts(url, retry)
        return Path(local_path(url))
    folder = Path(folder)
    facts = Facts(None, None) if isinstance(store, PipeStore) else store.facts(url, retry)
    target = folder / cache_name(url, facts)
    # Without the lock first: a cache that others have filled may be one that we cannot write to.
    if _kept(target, facts):
        return target
    temporary = folder / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The lock saves work. If a disk has none worth the name, several bring the file, and the last one wins.
        with FileLock(folder / f".{target.name}.lock"):
            if _kept(target, facts):
                return target
            try:
                with temporary.open("xb+") as sink:
                    got = store.download(url, sink, retry)
                if not isinstance(store, PipeStore):
                    # It may have changed since it was asked about. Where no size was known, the name says so now, and
                    # the next call brings the file again: nothing tells whether it is still the same.
                    target = folder / cache_name(url, got)
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{redact(url)} cannot be kept in {folder}: {error.strerror or error}") from error
    return target


def cache_name(url: str, facts: Facts) -> str:
    """The name that a file gets in a cache; without secrets, and good on any system."""
    digest = hashlib.sha256("\n".join((url, str(facts.size), str(facts.version))).encode()).hexdigest()[:20]
    if url.startswith("pipe:"):
        return f"{digest}-pipe.tar"
    last = unquote(re.split(r"[?#]", url)[0].rstrip("/").rpartition("/")[2])
    return f"{digest}-{re.sub(r'[^A-Za-z0-9._-]', '_', last)[-100:]}"


def _kept(target: Path, facts: Facts) -> bool:
    return target.is_file() and facts.size in (None, target.stat().st_size)

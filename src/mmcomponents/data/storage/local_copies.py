"""Local copies of complete remote files."""

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
    """Copies a file to a local folder, unless its current version is there already, and returns the path.

    The name of the copy depends on the address and on the version (ETag or time) and size of the file, and ends in the
    last part of the address. A changed file gets a new name, so that processes can still read the old copy. If several
    processes request the same file, one copies it and the others wait.

    Args:
        url: Address or path. The path of a local file is returned without copying.
        folder: Folder of the copies; created if it does not exist.
        allow_pipe: Whether `pipe:COMMAND` may be run. Its output is saved, and the command is not run again.
        retry: Retry settings for reading.

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
    # Checked before locking: an existing cache may be read-only.
    if _kept(target, facts):
        return target
    temporary = folder / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The lock only avoids duplicate work: on a disk without locks, the last copy replaces the others.
        with FileLock(folder / f".{target.name}.lock"):
            if _kept(target, facts):
                return target
            try:
                with temporary.open("xb+") as sink:
                    got = store.download(url, sink, retry)
                if not isinstance(store, PipeStore):
                    # The file may have changed since `facts`. If the store reports no size, the name now contains the
                    # actual size, and the next call copies the file again: whether it changed is unknown.
                    target = folder / cache_name(url, got)
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{redact(url)} cannot be copied to {folder}: {error.strerror or error}") from error
    return target


def cache_name(url: str, facts: Facts) -> str:
    """Returns the name of a file in a cache, without secrets and valid on any operating system."""
    digest = hashlib.sha256("\n".join((url, str(facts.size), str(facts.version))).encode()).hexdigest()[:20]
    if url.startswith("pipe:"):
        return f"{digest}-pipe.tar"
    last = unquote(re.split(r"[?#]", url)[0].rstrip("/").rpartition("/")[2])
    return f"{digest}-{re.sub(r'[^A-Za-z0-9._-]', '_', last)[-100:]}"


def _kept(target: Path, facts: Facts) -> bool:
    return target.is_file() and facts.size in (None, target.stat().st_size)

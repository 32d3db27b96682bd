"""Lock of a run's folder, so that two runs do not overwrite each other's files."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.data.storage.atomic_write import write_text

log = logging.getLogger(__name__)

LOCK, OWNER = ".run.lock", ".run.json"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds the lock of a run's folder. The system releases it when the process and its loader workers have ended.

    Args:
        folder: Folder of the run, created if it does not exist.

    Raises:
        CheckpointError: Another process holds the lock; the message names it and its start.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise CheckpointError(
            f"another run writes into {folder}: {_owner(folder)}. Stop it, or set another --trainer.default_root_dir"
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC):
            raise
        log.warning("%s cannot be locked (%s): two runs into it would overwrite each other", folder, error)
    owner = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "started": datetime.now().astimezone().isoformat(" ", "seconds"),
    }
    try:
        write_text(folder / OWNER, json.dumps(owner, indent=1) + "\n")
        yield
    finally:
        with suppress(OSError):  # the disk may have become read-only
            (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f"process {owner['process']} on {owner['host']}, started {owner['started']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # the other run is just starting
        return "its process is unknown"

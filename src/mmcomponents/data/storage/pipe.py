"""Shards that a shell command writes to its output: `pipe:COMMAND`."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from typing import IO

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.base import Facts, Retry, StorageError, Store, redact


def check_allowed(url: str, allow_pipe: bool) -> None:
    """Refuses a `pipe:` address unless the caller says otherwise.

    Raises:
        DataError: It is one, and `allow_pipe` is not set.
    """
    if url.startswith("pipe:") and not allow_pipe:
        raise DataError(f"{redact(url)} runs a shell command: allow it (allow_pipe) if you trust where it comes from")


class PipeStore(Store):
    """A command's output has no places to read from: it can only be kept as a file, by `fetch`."""

    def facts(self, url: str, retry: Retry) -> Facts:
        """Refuses."""
        raise DataError(f"{redact(url)} is no file: keep its output with fetch, and read that")

    def read(self, url: str, offset: int, size: int, retry: Retry) -> bytes:
        """Refuses."""
        raise DataError(f"{redact(url)} cannot be read in parts: keep its output with fetch, and read that")

    def expand(self, url: str, retry: Retry) -> list[str]:
        """The command itself: the shell sees to its globs."""
        return [url]

    def download(self, url: str, sink: IO[bytes], retry: Retry) -> Facts:
        """Runs the command once, with bash where there is one: a failure early in a pipeline counts there, too.

        Raises:
            StorageError: The command failed, or wrote nothing.
        """
        command = url.removeprefix("pipe:")
        shell = [bash, "-o", "pipefail", "-c"] if (bash := shutil.which("bash")) else ["sh", "-c"]
        # To a file, not a pipe of ours: a command that says much would wait for us to read it.
        with tempfile.TemporaryFile() as complaints:
            run = subprocess.run([*shell, command], stdin=subprocess.DEVNULL, stdout=sink, stderr=complaints)
            complaints.seek(max(0, complaints.seek(0, 2) - 4096))
            lines = complaints.read().decode("utf-8", "replace").strip().splitlines()
        if run.returncode:
            last = redact(lines[-1].strip())[:200] if lines else "it said nothing"
            raise StorageError(f"{redact(url)} failed with exit status {run.returncode}: {last}")
        size = sink.seek(0, 2)
        if not size:
            raise StorageError(f"{redact(url)} wrote nothing")
        return Facts(size, None)

"""Store for shards that a shell command writes to its standard output: `pipe:COMMAND`."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from typing import IO

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.base import Facts, Retry, StorageError, Store, redact


def check_allowed(url: str, allow_pipe: bool) -> None:
    """Checks that an address is not a `pipe:` command, unless these are allowed.

    Raises:
        DataError: The address is a `pipe:` command, and `allow_pipe` is False.
    """
    if url.startswith("pipe:") and not allow_pipe:
        raise DataError(
            f"{redact(url)} runs a shell command: set allow_pipe if you trust its source"
            " (--data.loading.allow_pipe true; a recipe cannot set it)"
        )


class PipeStore(Store):
    """Store for the output of a command, which cannot be read by offset but only saved to a file by `fetch`."""

    def facts(self, url: str, retry: Retry) -> Facts:
        """Always raises `DataError`."""
        raise DataError(f"{redact(url)} is not a file: save its output with fetch and read the saved file")

    def read(self, url: str, offset: int, size: int, retry: Retry) -> bytes:
        """Always raises `DataError`."""
        raise DataError(f"{redact(url)} cannot be read in parts: save its output with fetch and read the saved file")

    def expand(self, url: str, retry: Retry) -> list[str]:
        """Returns the command itself; the shell expands its globs."""
        return [url]

    def download(self, url: str, sink: IO[bytes], retry: Retry) -> Facts:
        """Runs the command once, with bash if available, where a failure of any command of a pipeline is an error.

        Raises:
            StorageError: The command failed, or its output is empty.
        """
        command = url.removeprefix("pipe:")
        shell = [bash, "-o", "pipefail", "-c"] if (bash := shutil.which("bash")) else ["sh", "-c"]
        # A file, not a pipe: a command that writes more than a pipe's buffer to stderr would block.
        with tempfile.TemporaryFile() as stderr:
            run = subprocess.run([*shell, command], stdin=subprocess.DEVNULL, stdout=sink, stderr=stderr)
            stderr.seek(max(0, stderr.seek(0, 2) - 4096))
            lines = stderr.read().decode("utf-8", "replace").strip().splitlines()
        if run.returncode:
            last = redact(lines[-1].strip())[:200] if lines else "stderr is empty"
            raise StorageError(f"{redact(url)} failed with exit status {run.returncode}: {last}")
        size = sink.seek(0, 2)
        if not size:
            raise StorageError(f"{redact(url)} has no output")
        return Facts(size, None)

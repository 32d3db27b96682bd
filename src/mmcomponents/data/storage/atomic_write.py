"""Atomic writing of files."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path, *, shared: bool = True) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which replaces `path` at the end of the block.

    A reader sees the old or the new file, never a partial one. If the block raises, the temporary file is removed.

    Args:
        path: Final path; its folder exists.
        shared: Whether several processes may write the file at once: each then uses its own temporary file.
            Otherwise the temporary name is fixed, so that the next writer replaces the file of a killed one.
    """
    temporary = path.with_name(
        f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp" if shared else f"{path.name}.part"
    )
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

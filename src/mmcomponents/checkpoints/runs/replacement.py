"""Replacement of a run's checkpoint by a newer one, so that a complete checkpoint exists at every moment.

A file replaces a file in one step. A folder cannot: the old folder is renamed to NAME.replaced, the new one from
NAME.part to NAME, and then the old one is deleted. `recover` finishes what a killed run left in between.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from torch.distributed.checkpoint.api import CheckpointException

from mmcomponents.checkpoints.runs.integrity import is_complete

PART, REPLACED = ".part", ".replaced"

_LITTLE = 100_000_000
"""Free bytes of a disk below which a failed write is explained by them."""


def part_of(path: Path) -> Path:
    """Returns the path under which a checkpoint is written before it replaces the previous one."""
    return path.with_name(path.name + PART)


def replace(part: Path, path: Path) -> None:
    """Replaces a checkpoint, if there is one, by a complete newer one.

    Raises:
        OSError: A file cannot be renamed or removed; one of the two checkpoints is still complete.
    """
    if not part.is_dir() and not path.is_dir():
        os.replace(part, path)
        return
    old = path.with_name(path.name + REPLACED)
    remove(old)
    if path.exists():
        path.rename(old)
    part.rename(path)
    with contextlib.suppress(
        OSError
    ):  # the new checkpoint is in place; the next save, or `recover`, removes the old one
        remove(old)


def recover(folder: Path) -> list[str]:
    """Finishes replacements in a folder of checkpoints that a killed run left, and removes incomplete checkpoints.

    Args:
        folder: Folder into which no other run writes.

    Returns:
        One sentence for each change.

    Raises:
        OSError: A file cannot be renamed or removed.
    """
    done = []
    for old in sorted(folder.glob(f"*.ckpt{REPLACED}")):
        path = old.with_name(old.name.removesuffix(REPLACED))
        part = part_of(path)
        if path.is_dir() and is_complete(old) and not is_complete(path):
            remove(path)
            old.rename(path)
            done.append(f"renamed {old} back to {path.name}, which was not complete")
        elif path.exists():
            remove(old)
            done.append(f"removed {old}, the predecessor of a checkpoint")
        elif part.is_dir() and is_complete(part):
            part.rename(path)
            remove(old)
            done.append(f"renamed {part} to {path.name}: it was complete")
        else:
            old.rename(path)
            done.append(f"renamed {old} back to {path.name}: its replacement was not complete")
    for part in sorted(folder.glob(f"*.ckpt{PART}")):
        path = part.with_name(part.name.removesuffix(PART))
        if not path.exists() and part.is_dir() and is_complete(part):
            part.rename(path)
            done.append(f"renamed {part} to {path.name}: it was complete")
        else:
            remove(part)
            done.append(f"removed {part}, which was to replace a checkpoint")
    return done


def write_error(path: Path, error: BaseException) -> str:
    """Returns one line that says why a checkpoint could not be written.

    torch's writer hides the system's error behind messages of its own; the reason is looked for in their context.
    """
    failures = list(error.failures.values()) if isinstance(error, CheckpointException) else []
    inner: BaseException | None = failures[0][0] if failures else error
    while inner is not None and not isinstance(inner, OSError):
        inner = inner.__cause__ or inner.__context__
    if isinstance(inner, OSError):
        reason = inner.strerror or str(inner)
    else:
        reason = " ".join(str(failures[0][0] if failures else error).split())[:200]
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            reason = f"only {free / 1e6:.0f} MB of its disk are free" if free < _LITTLE else reason
    return f"the checkpoint {path.name.removesuffix(PART)} cannot be written to {path.parent}: {reason}"


def remove(path: Path) -> None:
    """Removes a checkpoint, a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

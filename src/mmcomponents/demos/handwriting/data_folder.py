"""Folder of a generated data set, with a note of its name and completeness."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcomponents.data.errors import DataError
from mmcomponents.data.format.shard_index import index_path
from mmcomponents.data.storage.atomic_write import write_text

NOTE = "dataset.json"
"""Description of the data set, written last: if it exists, the data set is complete."""
BEGUN = ".dataset.json.begun"
"""Name of the data set while it is being written."""


def begin(folder: Path, name: str, parts: Sequence[str]) -> None:
    """Prepares the folder, and removes all shards of an earlier call, which may be more than the new ones.

    Args:
        folder: Folder of the data set, created if missing.
        name: Name of the data set.
        parts: Prefixes of its shards.

    Raises:
        DataError: The folder has other files, or is one itself.
        OSError: The folder cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: give a folder")
    owner, shards = _owner(folder), sorted(folder.glob("*.tar"))
    if owner is None and shards:
        found = f"{len(shards)} shards, such as {shards[0]}, without a note that they are of the data set {name!r}"
        raise DataError(f"{folder} has {found}: give another folder")
    inside = sorted(folder.iterdir()) if owner is None and folder.is_dir() else []
    others = [path for path in inside if not path.name.startswith(".")]  # a killed call leaves hidden files
    if others:
        raise DataError(f"{folder} is not empty, and has no data set (it has {others[0].name}): give another folder")
    if owner not in (None, name):
        raise DataError(f"{folder} has the data set {owner!r}, not {name!r}: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / BEGUN, json.dumps({"name": name}, indent=2) + "\n")
    (folder / NOTE).unlink(missing_ok=True)
    for part in parts:
        for shard in folder.glob(f"{part}-{'[0-9]' * 6}.tar"):  # as `ShardWriter` numbers them
            shard.unlink()
            index_path(shard).unlink(missing_ok=True)
        for unfinished in folder.glob(f".{part}-*.tmp"):  # of a call that was killed
            unfinished.unlink()


def finish(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the note of a complete data set.

    Args:
        folder: Folder of `begin`.
        settings: Description of the data set, with the "name" of `begin`.
    """
    write_text(folder / NOTE, json.dumps(settings, indent=2) + "\n")  # atomic: `begin` rejects an incomplete note
    (folder / BEGUN).unlink(missing_ok=True)


def _owner(folder: Path) -> str | None:
    """Reads the name of the folder's data set; returns None without a note."""
    for note in (folder / NOTE, folder / BEGUN):
        if note.is_file():
            try:
                return str(json.loads(note.read_text())["name"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{note} does not have the name of a data set: give another folder") from error
    return None

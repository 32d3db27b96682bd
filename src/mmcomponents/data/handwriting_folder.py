"""The folder of a made data set: whose it is, and whether it is whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcomponents.data.errors import DataError
from mmcomponents.data.index_file import index_path

NOTE = "dataset.json"
"""What the data set is. It is written last: where it is, the rest is whole."""
BEGUN = ".dataset.json.part"
"""Whose the folder is, until then."""


def begin(folder: Path, name: str, parts: Sequence[str]) -> None:
    """Removes the shards of an earlier call, which a smaller data set would leave among its own.

    Args:
        folder: Of the data set; it is made where it is missing.
        name: Of the data set.
        parts: What its shards are called, before the number.

    Raises:
        DataError: The folder holds another data set, or shards and no word of whose they are.
        OSError: The folder cannot be written to.
    """
    owner, shards = _owner(folder), sorted(folder.glob("*.tar"))
    if owner is None and shards:
        raise DataError(
            f"{folder} holds {len(shards)} shards that are not of the data set {name!r}, such as {shards[0]}"
        )
    if owner not in (None, name):
        raise DataError(f"{folder} holds the data set {owner!r}, not {name!r}: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BEGUN).write_text(json.dumps({"name": name}) + "\n")
    (folder / NOTE).unlink(missing_ok=True)
    for shard in shards:
        if shard.name.rpartition("-")[0] in parts:
            shard.unlink()
            index_path(shard).unlink(missing_ok=True)
    for part in parts:  # of a call that was killed
        for unfinished in folder.glob(f".{part}-*.tar.*.tmp"):
            unfinished.unlink()


def finish(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes what the data set is, once the rest is whole.

    Args:
        folder: As `begin` was given.
        settings: With the "name" that `begin` was given.
    """
    begun = folder / BEGUN
    begun.write_text(json.dumps(settings, indent=2) + "\n")
    begun.replace(folder / NOTE)


def _owner(folder: Path) -> str | None:
    """The name of the data set that the folder is of; None: nothing says so."""
    for note in (folder / NOTE, folder / BEGUN):
        if note.is_file():
            try:
                return str(json.loads(note.read_text())["name"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{note} does not say which data set this is: give another folder") from error
    return None

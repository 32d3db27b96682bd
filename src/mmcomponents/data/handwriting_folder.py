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
BEGUN = ".dataset.json.begun"
"""Whose the folder is, until then."""


def begin(folder: Path, name: str, parts: Sequence[str]) -> None:
    """Removes the shards of an earlier call, which a smaller data set would leave among its own.

    Args:
        folder: Of the data set; it is made where it is missing.
        name: Of the data set.
        parts: What its shards are called, before the number.

    Raises:
        DataError: The folder holds another data set, or shards or a note that nothing is known of.
        OSError: The folder cannot be written to.
    """
    owner, shards = _owner(folder), sorted(folder.glob("*.tar"))
    if owner is None and shards:
        told = f"{len(shards)} shards, such as {shards[0]}, and nothing says that they are of the data set {name!r}"
        raise DataError(f"{folder} holds {told}: give another folder")
    if owner not in (None, name):
        raise DataError(f"{folder} holds the data set {owner!r}, not {name!r}: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / BEGUN, {"name": name})
    (folder / NOTE).unlink(missing_ok=True)
    for part in parts:
        for shard in folder.glob(f"{part}-{'[0-9]' * 6}.tar"):  # as `ShardWriter` numbers them
            shard.unlink()
            index_path(shard).unlink(missing_ok=True)
        for unfinished in folder.glob(f".{part}-*.tmp"):  # of a call that was killed
            unfinished.unlink()


def finish(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes what the data set is, once the rest is whole.

    Args:
        folder: As `begin` was given.
        settings: With the "name" that `begin` was given.
    """
    _write(folder / NOTE, settings)
    (folder / BEGUN).unlink(missing_ok=True)


def _owner(folder: Path) -> str | None:
    """The name of the data set that the folder is of; None: nothing says so."""
    for note in (folder / NOTE, folder / BEGUN):
        if note.is_file():
            try:
                return str(json.loads(note.read_text())["name"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{note} does not say which data set this is: give another folder") from error
    return None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all: a torn note would lock its own data set out."""
    part = path.with_name(f"{path.name}.tmp")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(path)

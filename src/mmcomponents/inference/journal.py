"""What a long run has done so far, so that a stopped one goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mmcomponents.data.errors import DataError


class Journal:
    """A JSONL file that a stopped run goes on from. A context manager.

    The first line has the settings. Each further line is a record with a "key". A line that was cut by the end of the
    run (also by SIGKILL) is dropped.

    Args:
        path: The file; its folder is made if it is missing.
        settings: All that the records depend on, as JSON.

    Attributes:
        done: The records so far, by their keys.

    Raises:
        DataError: The file was written with other settings, or is no journal.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict[str, Any]] = {}
        wanted = json.loads(json.dumps(settings))
        begun = self._read(wanted)
        self._file = self.path.open("ab")
        if not begun:
            self._write({"settings": wanted})

    def add(self, record: Mapping[str, Any]) -> None:
        """Notes a record; it is safe from the end of the process once this returns.

        Raises:
            ValueError: The record has no "key" that is a text.
        """
        key = record.get("key")
        if not isinstance(key, str):
            raise ValueError(f'a record of a journal has a text as "key", got {key!r}')
        self._write(record)
        self.done[key] = dict(record)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        # ASCII: a text with half of a surrogate pair can be written, and no line break hides in a line
        self._file.write(json.dumps(record).encode("ascii") + b"\n")
        self._file.flush()

    def _read(self, wanted: dict[str, Any]) -> bool:
        """Takes in what is there; returns whether the line with the settings is."""
        if not self.path.exists():
            return False
        whole, begun = 0, False
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                except ValueError:
                    record = None
                name, kind = ("settings", dict) if number == 1 else ("key", str)
                if not isinstance(record, dict) or not isinstance(record.get(name), kind):
                    raise DataError(f"{self.path}:{number} is no line of a journal; delete the file to begin anew")
                if number == 1:
                    self._compare(record["settings"], wanted)
                    begun = True
                else:
                    self.done[record["key"]] = record
                whole += len(line)
        os.truncate(self.path, whole)
        return begun

    def _compare(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        if found == wanted:
            return
        was, now = _flat(found), _flat(wanted)
        names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
        told = ", ".join(f"{name} was {was.get(name)!r:.80} and is {now.get(name)!r:.80}" for name in names[:3])
        raise DataError(
            f"{self.path} was begun with other settings ({told}{', …' if names[3:] else ''}); give the same ones to go"
            " on, another folder, or delete it to begin anew"
        )


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return found

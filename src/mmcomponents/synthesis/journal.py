"""Journal of a long run, from which an interrupted run resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mmcomponents.data.errors import DataError


class Journal:
    """JSONL file from which an interrupted run resumes; a context manager.

    The first line contains the settings, and is written with the first record, so that a run that ends before it leaves
    nothing to resume. Each further line is a record with a "key". A line that is incomplete because
    the run was killed (also by SIGKILL) is dropped.

    Args:
        path: The file; its folder is created if missing.
        settings: All settings that the records depend on, serializable as JSON.

    Attributes:
        done: Records so far, by key.

    Raises:
        DataError: The file was written with other settings, or is not a journal.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict[str, Any]] = {}
        self._settings = json.loads(json.dumps(settings))
        self._begun = self._read(self._settings)
        self._file = self.path.open("ab")

    def add(self, record: Mapping[str, Any]) -> None:
        """Appends a record; once this returns, the record survives the end of the process.

        Raises:
            ValueError: The record has no "key" that is a string.
        """
        key = record.get("key")
        if not isinstance(key, str):
            raise ValueError(f'a record of a journal needs a string as "key", got {key!r}')
        if not self._begun:
            self._write({"settings": self._settings})
            self._begun = True
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
        # ASCII: lone surrogates can be written, and a line contains no Unicode line break
        self._file.write(json.dumps(record).encode("ascii") + b"\n")
        self._file.flush()

    def _read(self, wanted: dict[str, Any]) -> bool:
        """Reads the existing records; returns whether the file contains the line with the settings."""
        if not self.path.exists():
            return False
        complete, begun = 0, False
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
                    raise DataError(f"{self.path}:{number} is not a line of a journal; delete the file to start over")
                if number == 1:
                    self._compare(record["settings"], wanted)
                    begun = True
                else:
                    self.done[record["key"]] = record
                complete += len(line)
        os.truncate(self.path, complete)
        return begun

    def _compare(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        if found == wanted:
            return
        was, now = _flat(found), _flat(wanted)
        names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
        changes = ", ".join(f"{name} was {was.get(name)!r:.80} and is {now.get(name)!r:.80}" for name in names[:3])
        raise DataError(
            f"{self.path} was started with other settings ({changes}{', …' if names[3:] else ''}); use the same ones to"
            " resume, use another folder, or delete the file to start over"
        )


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Returns the settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return found

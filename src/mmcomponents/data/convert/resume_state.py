"""State of a conversion in its output folder, from which an interrupted conversion continues.

`.pack/settings.json` holds all settings that determine the bytes of the shards. A call with other settings is refused
if there are shards, unless the earlier call failed. Beside it, each complete shard with its
index has a note, written last, with its lines, its totals and its skipped samples. Notes with other settings are
ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mmcomponents.data.convert.inputs.chunks import Chunk
from mmcomponents.data.convert.inputs.source import Source
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.shard_index import index_path
from mmcomponents.data.storage.atomic_write import write_text

OUTPUTS = ("refused.jsonl", "pack.json", "recipe.yaml")


@dataclass
class Totals:
    """Counts over some lines.

    Attributes:
        lines: Lines, or text files.
        blank: Blank lines.
        refused: Skipped samples.
        samples: Written samples.
        documents_cut: Documents that were split into pieces.
        pieces: Samples that are pieces of these.
        tokens: Tokens of the samples, with visual tokens; videos count with the largest number of frames.
        tiles: Tiles of the samples.
        images: Image files.
        videos: Video files.
        bad_boxes: Samples with an invalid box in an answer.
        turned_boxes: Samples whose boxes were turned with their image.
        bytes: Bytes of the shards.
        shards: Shards with a sample.
    """

    lines: int = 0
    blank: int = 0
    refused: int = 0
    samples: int = 0
    documents_cut: int = 0
    pieces: int = 0
    tokens: int = 0
    tiles: int = 0
    images: int = 0
    videos: int = 0
    bad_boxes: int = 0
    turned_boxes: int = 0
    bytes: int = 0
    shards: int = 0

    def add(self, other: Totals) -> None:
        """Adds the counts of other lines."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass
class Note:
    """Note of a chunk that is done.

    Attributes:
        chunk: Chunk of an input that is done.
        totals: Its counts; a chunk without samples has no shard.
        refused: Its lines of `refused.jsonl`.
        bad_box: Position and problem of the first invalid box.
        unknown: Number of samples that have each unknown key.
        spelled: Number of samples whose texts have each special token that is not allowed in texts.
    """

    chunk: Chunk
    totals: Totals
    refused: list[dict[str, Any]] = field(default_factory=list)
    bad_box: str = ""
    unknown: dict[str, int] = field(default_factory=dict)
    spelled: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """State of an output folder.

    Attributes:
        out: The folder.
        settings: All settings that determine the bytes of the shards.
    """

    out: Path
    settings: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Folder of the notes."""
        return self.out / ".pack"

    @property
    def fingerprint(self) -> str:
        """Short hash of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]

    def _place(self, source: Source, number: int) -> Path:
        return self.folder / f"{source.shard(number)}.json"

    def note(self, source: Source, number: int) -> Note | None:
        """Reads the note of a shard; returns None if the shard is not complete."""
        try:
            found = json.loads(self._place(source, number).read_text(encoding="utf-8"))
            if found.pop("fingerprint") != self.fingerprint:
                return None
            note = Note(Chunk(**found.pop("chunk")), Totals(**found.pop("totals")), **found)
            shard = self.out / source.shard(number)
            if note.totals.samples and (shard.stat().st_size != note.totals.bytes or not index_path(shard).is_file()):
                return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return note

    def write_note(self, source: Source, note: Note) -> None:
        """Writes the note of a complete shard."""
        content = {
            "fingerprint": self.fingerprint,
            "chunk": asdict(note.chunk),
            "totals": asdict(note.totals),
            "refused": note.refused,
            "bad_box": note.bad_box,
            "unknown": note.unknown,
            "spelled": note.spelled,
        }
        write_text(self._place(source, note.chunk.number), json.dumps(content, ensure_ascii=True))

    @contextmanager
    def opened(self, overwrite: bool) -> Iterator[None]:
        """Locks the folder for this call, and removes unfinished files of an interrupted call.

        Raises:
            DataError: The folder belongs to other settings or inputs, or to another program, or is locked.
        """
        known = self.folder / "settings.json"
        shards = sorted(self.out.glob("*.tar")) if self.out.is_dir() else []
        if self.out.exists() and not self.out.is_dir():
            raise DataError(f"{self.out} is not a folder")
        if shards and not known.is_file():
            raise DataError(f"{self.out} has shards that this command did not write, such as {shards[0].name}")
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / "lock", self.out):
            if known.is_file():
                earlier = _read(known)
                changes = _changes(earlier, self.settings)
                has_results = any(self._shards(earlier)) and not self._failed.exists()
                if changes and has_results and not overwrite:
                    raise DataError(
                        f"{self.out} was converted with other settings or inputs ({'; '.join(changes)}): give another"
                        " folder, or convert it again with --overwrite"
                    )
                if overwrite or changes:
                    self._clear(earlier)
            for leftover in (*self.out.glob(".*.tmp"), *self.folder.glob(".*.tmp")):
                leftover.unlink()
            write_text(known, json.dumps(self.settings, indent=1, sort_keys=True))
            try:
                yield
            except Exception:
                self._failed.touch()
                raise
            self._failed.unlink(missing_ok=True)

    @property
    def _failed(self) -> Path:
        """File that marks that the last call failed; its shards are kept, and other settings may replace them."""
        return self.folder / "failed"

    def _shards(self, earlier: Mapping[str, Any]) -> Iterator[Path]:
        """Yields the shards of an earlier call."""
        stems = [str(source.get("stem")) for source in earlier.get("sources", {}).values()]
        for shard in self.out.glob("*.tar"):
            stem, _, number = shard.stem.rpartition("-")
            if stem in stems and number.isdigit():
                yield shard

    def _clear(self, earlier: Mapping[str, Any]) -> None:
        for shard in self._shards(earlier):
            shard.unlink()
            index_path(shard).unlink(missing_ok=True)
        for name in OUTPUTS:
            (self.out / name).unlink(missing_ok=True)
        for path in self.folder.glob("*.json"):
            path.unlink()


def file_facts(source: Source) -> dict[str, Any]:
    """Returns facts that reveal changes of a source's files, with a hash of their paths, sizes and times of change."""
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in source.files]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return {"stem": source.stem, "files": len(facts), "bytes": sum(size for _, size, _ in facts), "facts": digest}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describes the differences of two settings."""
    changes = []
    for key in sorted({*earlier, *now} - {"sources"}):
        if earlier.get(key) != now.get(key):
            changes.append(f"{key} was {earlier.get(key)}, is {now.get(key)}")
    before, after = earlier.get("sources", {}), now.get("sources", {})
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            what = "is new" if name not in before else "is missing" if name not in after else "has changed"
            changes.append(f"the input {name} {what}")
    return changes if len(changes) <= 4 else [*changes[:4], f"and {len(changes) - 4} more"]


@contextmanager
def _locked(path: Path, out: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another call is writing to {out}") from None
        except OSError:  # a file system without locks
            pass
        yield

"""What a folder knows of the packing that goes on in it, so that one that was stopped goes on where it was.

`.pack/settings.json` holds all that decides the bytes of the shards. Beside it each shard that is whole, with its
index, has a note, moved into place last: its lines, its totals and its refusals. A note of other settings is no note.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mmcomponents.data.annotations.chunks import Chunk
from mmcomponents.data.annotations.sources import Source
from mmcomponents.data.errors import DataError
from mmcomponents.data.index_file import index_path

OUTPUTS = ("refused.jsonl", "pack.json", "recipe.yaml")


@dataclass
class Totals:
    """Counts over some lines.

    Attributes:
        lines: Lines, or text files.
        blank: Lines with nothing on them.
        refused: Samples that cannot be used.
        samples: Samples that were written.
        documents_cut: Documents that were cut into pieces.
        pieces: Samples that are pieces of these.
        tokens: Of the samples, rows of images included; videos with as many frames as they may have.
        tiles: Of the samples.
        images: Files of images.
        videos: Files of videos.
        bad_boxes: Samples with a box in an answer that cannot be read.
        bytes: Of the shards.
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
    bytes: int = 0
    shards: int = 0

    def add(self, other: Totals) -> None:
        """Adds the counts of other lines."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass
class Note:
    """What is known of a chunk that is done.

    Attributes:
        chunk: Its lines.
        totals: Its counts; those of no samples where there is no shard.
        refused: A line of `refused.jsonl` each.
        bad_box: Place of the first sample with a box that cannot be read, and what is wrong with it.
    """

    chunk: Chunk
    totals: Totals
    refused: list[dict[str, Any]] = field(default_factory=list)
    bad_box: str = ""


@dataclass(frozen=True)
class State:
    """The state of a folder.

    Attributes:
        out: The folder.
        settings: All that decides the bytes of the shards.
    """

    out: Path
    settings: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where the notes lie."""
        return self.out / ".pack"

    @property
    def fingerprint(self) -> str:
        """Short hash of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]

    def _place(self, source: Source, number: int) -> Path:
        return self.folder / f"{source.shard(number)}.json"

    def note(self, source: Source, number: int) -> Note | None:
        """The note of a shard; None where it is not whole."""
        try:
            found = json.loads(self._place(source, number).read_text(encoding="utf-8"))
            if found["fingerprint"] != self.fingerprint:
                return None
            note = Note(Chunk(**found["chunk"]), Totals(**found["totals"]), found["refused"], found.get("bad_box", ""))
            shard = self.out / source.shard(number)
            if note.totals.samples and (shard.stat().st_size != note.totals.bytes or not index_path(shard).is_file()):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return note

    def write_note(self, source: Source, note: Note) -> None:
        """Notes that a shard is whole."""
        content = {
            "fingerprint": self.fingerprint,
            "chunk": asdict(note.chunk),
            "totals": asdict(note.totals),
            "refused": note.refused,
            "bad_box": note.bad_box,
        }
        write_whole(self._place(source, note.chunk.number), json.dumps(content, ensure_ascii=True))

    @contextmanager
    def opened(self, overwrite: bool) -> Iterator[None]:
        """Takes the folder, which nobody else may pack into meanwhile, and clears away what a stopped call left.

        Raises:
            DataError: The folder belongs to other settings or inputs, to another program, or somebody packs into it.
        """
        known = self.folder / "settings.json"
        shards = sorted(self.out.glob("*.tar")) if self.out.is_dir() else []
        if self.out.exists() and not self.out.is_dir():
            raise DataError(f"{self.out} is no folder")
        if shards and not known.is_file():
            raise DataError(f"{self.out} holds shards that this command did not write, such as {shards[0].name}")
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / "lock", self.out):
            if known.is_file():
                earlier = _read(known)
                changes = _changes(earlier, self.settings)
                if changes and not overwrite:
                    raise DataError(
                        f"{self.out} was packed with other settings or inputs ({'; '.join(changes)}): name another"
                        " folder, or pack it anew with --overwrite"
                    )
                if overwrite:
                    self._clear(earlier)
            for leftover in (*self.out.glob(".*.tmp"), *self.folder.glob(".*.tmp")):
                leftover.unlink()
            write_whole(known, json.dumps(self.settings, indent=1, sort_keys=True))
            yield

    def _clear(self, earlier: Mapping[str, Any]) -> None:
        stems = [str(source.get("stem")) for source in earlier.get("sources", {}).values()]
        for shard in self.out.glob("*.tar"):
            stem, _, number = shard.stem.rpartition("-")
            if stem in stems and number.isdigit():
                shard.unlink()
                index_path(shard).unlink(missing_ok=True)
        for name in OUTPUTS:
            (self.out / name).unlink(missing_ok=True)
        for path in self.folder.glob("*.json"):
            path.unlink()


def write_whole(path: Path, text: str) -> None:
    """Writes a file under another name and moves it to its place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def file_facts(source: Source) -> dict[str, Any]:
    """What tells whether the files of a source have changed: their paths, sizes and times of change."""
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in source.files]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return {"stem": source.stem, "files": len(facts), "bytes": sum(size for _, size, _ in facts), "facts": digest}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, a few words each."""
    changes = []
    for key in sorted({*earlier, *now} - {"sources"}):
        if earlier.get(key) != now.get(key):
            changes.append(f"{key} was {earlier.get(key)}, is {now.get(key)}")
    before, after = earlier.get("sources", {}), now.get("sources", {})
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            what = "is new" if name not in before else "is gone" if name not in after else "has changed"
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
            raise DataError(f"another call packs into {out} at this moment") from None
        except OSError:  # a file system without locks
            pass
        yield

"""A data set of annotations, and how its samples are split into training and validation."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["lines", "texts", "list", "table"]
"""Form of the files: one JSON object a line, one document a file, a JSON list, or tables (Parquet or Arrow)."""

Part = Literal["train", "val", "test"]

_PARTS: dict[str, Part] = {"val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
"""Word in the name of a file -> part of the data, as in the library `datasets`. Others are for training."""


@dataclass(frozen=True)
class Source:
    """One data set, or its share for training or validation.

    Attributes:
        name: Name in recipes and logs.
        files: Its annotation file, its text files, or its tables.
        kind: Form of the files.
        root: Folder to which paths of media are relative.
        repeat: Number of passes in an epoch; None: not set.
        max_tiles: Largest number of tiles of its images; None: not set.
        jpeg: Whether training re-compresses its images as JPEG; None: not set.
        length: Number of samples according to its meta file; None: not set.
        rows: Number of rows of each table.
        share: Share of the samples for validation, drawn by their keys; 0: no split.
        is_val: Whether these are the samples for validation, if there is a split.
        is_listed: Whether a meta file lists it.
    """

    name: str
    files: tuple[Path, ...]
    kind: Kind
    root: Path
    repeat: float | None = None
    max_tiles: int | None = None
    jpeg: bool | None = None
    length: int | None = None
    rows: tuple[int, ...] = ()
    share: float = 0.0
    is_val: bool = False
    is_listed: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The options of the meta file, by the names of `SourceOptions`; None: not set."""
        return {"repeat": self.repeat, "max_tiles": self.max_tiles, "jpeg": self.jpeg}

    @property
    def label(self) -> str:
        """The name, which also tells the samples for validation apart."""
        return f"{self.name} (val)" if self.is_val else self.name

    @property
    def stem(self) -> str:
        """The name in a form for file names."""
        name = unicodedata.normalize("NFC", self.name)
        stem = re.sub(r"\W+", "_", name.replace("-", "\0")).replace("\0", "-").strip("_-")[:100] or "source"
        return f"{stem}-val" if self.is_val else stem

    @property
    def part(self) -> Part:
        """Part of the data that the name of its file tells; data sets of a meta file are for training."""
        if self.is_val:
            return "val"
        words = [] if self.is_listed or self.kind == "texts" else re.split(r"[-_.]", self.name.lower())
        found = {_PARTS[word] for word in words if word in _PARTS}
        return found.pop() if len(found) == 1 and "train" not in words else "train"

    def shard(self, number: int) -> str:
        """Returns the file name of a shard."""
        return f"{self.stem}-{number:06d}.tar"

    def has(self, key: str) -> bool:
        """Whether the sample of a key is one of this share."""
        if not self.share:
            return True
        digest = hashlib.blake2b(f"{self.name}/{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return (int.from_bytes(digest, "big") < self.share * 2**64) == self.is_val

    def per_chunk(self, samples: int) -> int:
        """Returns the number of input samples of which this share has about a given number."""
        mine = self.share if self.is_val else 1 - self.share
        return max(samples, round(samples / mine))

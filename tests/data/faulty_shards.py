"""Shards with faults, and data modules that read them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.format.indexing import build_index

from .conftest import png, record
from .test_datamodule import module_of


def archive(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def sample(key: str, answer: str = "3", image: bytes | None = None) -> list[tuple[str, bytes]]:
    return [(f"{key}.json", json.dumps(record(answer=answer)).encode()), (f"{key}.0.png", image or png(16, 16))]


def good(count: int, **more: Any) -> list[tuple[str, bytes]]:
    return [member for number in range(count) for member in sample(f"{number:04d}", **more)]


def indexed(folder: Path, members: Sequence[tuple[str, bytes]], tokenizer: Any, name: str = "train-000000.tar") -> Path:
    build_index(path := archive(folder / name, members), tokenizer)
    return path


def data_of(folder: Path, **changes: Any) -> PackedDataModule:
    """Data in packs of a few samples each."""
    return module_of(folder, **{"pack_tokens": 300, **changes})


def read(data: PackedDataModule) -> tuple[list[str], list[str]]:
    """Returns the names of an epoch's samples, and the skipped samples."""
    batches = list(data.train_dataloader())
    return sorted(k for b in batches for k in b.keys if k), sorted(line for b in batches for line in b.refused)

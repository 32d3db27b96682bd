"""Checksums of a run's checkpoint: damaged bytes are found before they become weights.

A single file is a zip archive, whose entries have CRC-32 checksums that torch writes and does not verify. A folder of
shards has `checksums.json`, which is written last: a folder that has it is complete.
"""

from __future__ import annotations

import json
import logging
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.runs.shard_metadata import check_shards
from mmcomponents.data.storage.atomic_write import write_text

CHECKSUMS = "checksums.json"

log = logging.getLogger(__name__)

_CHUNK = 1 << 22
_THREADS = 8


def verify(path: Path, rank: int = 0, world: int = 1) -> None:
    """Checks that a checkpoint is undamaged, and that reading a folder of shards runs no code.

    A single file is to be read with `torch.load(weights_only=True)`, which runs none.

    Args:
        path: File, or folder of shards. The files of a folder are divided among ranks.
        rank: Rank of this process.
        world: Number of ranks that verify the folder together.

    Raises:
        CheckpointError: A file is missing, cut off or damaged, or could run code.
    """
    if not path.is_dir():
        _verify_file(path)
        return
    if odd := [entry for entry in path.iterdir() if not entry.is_file()]:
        raise CheckpointError(f"{odd[0]} is not a file")
    given = read_checksums(path)
    if not given and rank == 0:
        log.warning("%s has no %s: damaged bytes in it are not found", path, CHECKSUMS)
    if missing := [name for name in given if not (path / name).is_file()]:
        raise CheckpointError(f"{path} lacks {missing[0]}")
    names = sorted(given)[rank::world]
    for name, found in zip(names, _crc32s(path, names), strict=True):
        if found != given[name]:
            raise CheckpointError(f"{path / name} is damaged: its checksum differs from the one in {CHECKSUMS}")
    check_shards(path)


def checksums(folder: Path, rank: int = 0) -> dict[str, str]:
    """Returns the CRC-32 of the files that a rank has written into a folder, by name.

    Rank zero also has the files that no rank is named in. Other ranks may not look at them: it may still write.
    """
    own = re.compile(rf"__{rank}_.*" if rank else r"(__0_|(?!__\d+_)).*")
    names = [file.name for file in folder.iterdir() if own.fullmatch(file.name) and file.name != CHECKSUMS]
    return dict(zip(names, _crc32s(folder, names), strict=True))


def write_checksums(folder: Path, found: dict[str, str]) -> None:
    """Writes the checksums of all files of a folder, which marks the folder as complete.

    Raises:
        OSError: The file cannot be written.
    """
    write_text(folder / CHECKSUMS, json.dumps({"crc32": dict(sorted(found.items()))}, indent=1) + "\n")


def is_complete(folder: Path) -> bool:
    """Returns whether a folder of shards was written to its end."""
    return (folder / CHECKSUMS).is_file()


def _verify_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is damaged, or not a checkpoint of a run: {error}") from None
    except (OSError, RuntimeError, NotImplementedError, zlib.error) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of {damaged} differs")


def read_checksums(folder: Path) -> dict[str, str]:
    """Returns the checksums of a folder by file; none for a folder of an earlier version, which wrote none.

    Raises:
        CheckpointError: They cannot be read.
    """
    path = folder / CHECKSUMS
    if not path.exists():
        return {}
    try:
        given = json.loads(path.read_text(encoding="utf-8"))["crc32"]
        return {str(name): str(value) for name, value in given.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__} {error}") from None


def _crc32s(folder: Path, names: list[str]) -> Iterable[str]:
    with ThreadPoolExecutor(_THREADS) as pool:  # zlib releases the interpreter's lock
        return pool.map(crc32, [folder / name for name in names])


def crc32(path: Path) -> str:
    """Returns the checksum of a file."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"


_CONTENTS = {
    "pytorch-lightning_version": str,
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "state_dict": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "callbacks": dict,
    "hyper_parameters": Mapping,
}
_REQUIRED = ("pytorch-lightning_version", "epoch", "global_step", "loops")


def check_contents(path: Path, contents: object) -> None:
    """Checks that what was read has the entries of a checkpoint, of the types that Lightning expects.

    Raises:
        CheckpointError: An entry is missing or of another type.
    """
    if not isinstance(contents, Mapping):
        raise CheckpointError(f"{path} is not a checkpoint of a run: it holds a {type(contents).__name__}")
    if missing := [name for name in _REQUIRED if name not in contents]:
        raise CheckpointError(f"{path} is not a checkpoint of a run: it has no {missing[0]}")
    for name, kind in _CONTENTS.items():
        if name in contents and not isinstance(contents[name], kind):
            raise CheckpointError(f"{path}: {name} is of type {type(contents[name]).__name__}")

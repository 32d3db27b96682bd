"""Reading and writing of JSON and weight files, tensor by tensor and shard by shard."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.checks import checksums
from mmcomponents.checkpoints.checks.piece_checksums import PieceChecksums
from mmcomponents.checkpoints.finite import check_finite
from mmcomponents.checkpoints.rules import Lazy, lazy
from mmcomponents.model_files import ModelFileError, check_weights_file, read_json_file

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model*.bin", "*.pth", "*.pt")
"""Patterns of pickle files in order of preference; files of the last may hold anything."""

MAX_SHARD = 5_000_000_000
"""Default maximum number of bytes of a shard."""

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def check_folder(folder: Path) -> None:
    """Checks that a folder exists.

    Raises:
        CheckpointError: It does not exist, is a file, or is the folder of a run.
    """
    if folder.is_file():
        raise CheckpointError(
            f"{folder} is a file, not a checkpoint folder; `mmcomponents export --config RECIPE --ckpt_path {folder}"
            " --format mmcomponents --out FOLDER` makes a folder from a run's checkpoint"
        )
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint folder {folder}")
    recipe = folder / "recipe.yaml"
    if recipe.is_file() and (folder / "checkpoints").is_dir() and not (folder / "config.json").exists():
        raise CheckpointError(
            f"{folder} is the folder of a run, not a checkpoint folder: give --config {recipe} --ckpt_path with a"
            f" file of {folder / 'checkpoints'}; with these, `mmcomponents export` makes a checkpoint folder"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CheckpointError: The file is missing, is not opened (see `check_file`), or holds something else.
    """
    try:
        value = read_json_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"no {path.name} in {path.parent}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not an object")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes an indented JSON object."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_weights(folder: Path, allow_pickle: bool = False) -> dict[str, Lazy]:
    """Returns the tensors of a folder by name, each read lazily.

    Args:
        folder: Folder with safetensors, in one file or in shards.
        allow_pickle: Whether to read PyTorch's pickle files if there are no safetensors. torch restricts their content,
            but a pickle from an untrusted source remains a risk.

    Raises:
        CheckpointError: The folder has no weights or only pickles, or a shard is missing or broken.
    """
    shards = _shards(folder)
    if shards:
        return dict(entry for shard in shards for entry in _tensors(shard))
    pickles = next((found for pattern in PICKLES if (found := sorted(folder.glob(pattern)))), [])
    if not pickles:
        raise CheckpointError(f"no weights (*.safetensors) in {folder}")
    if not allow_pickle:
        raise CheckpointError(
            f"the weights in {folder} are pickles ({pickles[0].name}), which can run code when they are read: "
            "if you trust them, `mmcomponents import FOLDER --allow_pickle --out DIR` converts them to safetensors"
        )
    return dict(entry for path in pickles for entry in _unpickled(path))


def read_file(path: Path) -> dict[str, Lazy]:
    """Returns the tensors of a file of safetensors by name, each read lazily.

    Raises:
        CheckpointError: It is broken or not a file.
    """
    return dict(_tensors(path))


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.exists():
        single = folder / WEIGHTS
        return [single] if single.exists() else sorted(folder.glob("*.safetensors"))
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{index} has no weight_map")
    names = list(dict.fromkeys(str(name) for name in table.values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise CheckpointError(f"{index} names a shard outside of its folder: {outside[0]!r}")
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(names)} shards are missing in {folder}: {', '.join(missing[:3])}"
        )
    return [folder / name for name in names]


def _tensors(shard: Path) -> Iterator[tuple[str, Lazy]]:
    """Yields the tensors of a shard with names and shapes from its header."""
    try:
        _check(shard)
        with safe_open(shard, framework="pt") as file:
            sums = checksums.from_metadata(file.metadata(), shard)
            metas = {name: _meta(file.get_slice(name), name, shard) for name in file.offset_keys()}
            pieces = None
            if sums is not None:
                if missing := [name for name in metas if name not in sums]:
                    raise CheckpointError(f"{shard} is damaged: it has no checksum of {missing[0]}")
                pieces = PieceChecksums(shard, sums, {name: meta.nbytes for name, meta in metas.items()})
            for name, meta in metas.items():
                read = partial(_read, shard, name, None if sums is None else sums[name])
                rows = partial(_read_rows, shard, name, pieces) if meta.ndim else None
                yield name, Lazy(meta, read, rows, () if pieces is None else (pieces,))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{shard} is broken or not a safetensors file: {error}") from error


def _meta(part: Any, name: str, shard: Path) -> Tensor:
    kind = _TYPES.get(part.get_dtype())
    if kind is None:
        raise CheckpointError(f"{name} in {shard} is of type {part.get_dtype()}, which is not supported")
    return torch.empty(part.get_shape(), dtype=kind, device="meta")


def _read(shard: Path, name: str, checksum: int | None) -> Tensor:
    # Opened for each tensor: pages that were read stay in memory until the memory mapping is closed.
    try:
        with safe_open(shard, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{shard}: {name} cannot be read: {error}") from error
    if checksum is not None and checksums.crc32(tensor) != checksum:
        raise CheckpointError(checksums.damaged(shard, name))
    return tensor


def _read_rows(shard: Path, name: str, pieces: PieceChecksums | None, first: int, end: int) -> Tensor:
    try:
        with safe_open(shard, framework="pt") as file:
            rows: Tensor = file.get_slice(name)[first:end]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{shard}: {name} cannot be read: {error}") from error
    if pieces is not None:  # the checksum in the file is that of the whole tensor
        pieces.add(name, first, rows)
    return rows


def _check(path: Path) -> None:
    """Checks a file of weights before it is opened."""
    try:
        check_weights_file(path)
    except ModelFileError as error:
        raise CheckpointError(str(error)) from error


def _unpickled(path: Path) -> Iterator[tuple[str, Lazy]]:
    _check(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or ["it is cut off"])[0]
        raise CheckpointError(f"{path} is not a file of PyTorch weights: {reason}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} does not hold a dict of tensors")
    for name, value in state.items():
        yield str(name), lazy(value)


def _sort_metadata(file: Path) -> None:
    """Sorts the metadata in a header, which safetensors writes in random order: equal weights give equal files."""
    with file.open("r+b") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
        found = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
        text = json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:
            opened.seek(8)
            opened.write(text.ljust(length))


def write_weights(
    folder: Path,
    state: Mapping[str, Lazy],
    max_shard: int = MAX_SHARD,
    progress: Callable[[int], None] | None = None,
    allow_nonfinite: bool = False,
) -> None:
    """Writes tensors in order with their checksums, shard by shard, with an index if there are several shards.

    Args:
        folder: Existing folder.
        state: Tensors by name.
        max_shard: Maximum number of bytes of a shard; a larger tensor gets its own shard.
        progress: Called with the number of bytes of each written shard.
        allow_nonfinite: Whether to write weights with NaN or infinities.

    Raises:
        CheckpointError: A file cannot be written, or a weight is not finite.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name, value in state.items():
        if size + value.nbytes > max_shard and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += value.nbytes
    table: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: state[name].load().contiguous() for name in names}
        if not allow_nonfinite:
            for name, tensor in tensors.items():
                check_finite("the weights", name, tensor)
        try:
            save_file(tensors, folder / file, metadata=checksums.as_metadata(tensors))
            _sort_metadata(folder / file)
        except SafetensorError as error:  # for example a full disk
            raise CheckpointError(f"{folder / file} cannot be written: {error}") from error
        (folder / file).chmod(folder.stat().st_mode & 0o666)  # created for its owner only; servers are other users
        table.update(dict.fromkeys(names, file))
        del tensors
        if progress is not None:
            progress(sum(state[name].nbytes for name in names))
    if len(shards) > 1:
        total = sum(value.nbytes for value in state.values())
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(table.items()))})

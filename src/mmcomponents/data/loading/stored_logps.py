"""Stored log-probabilities of the answers of pairs under a reference model, one file per shard.

A file has the tensor `logps`, fp32 `[samples of the shard, 2]` (chosen, rejected), NaN where a sample is not a pair or
could not be read. Its name is that of the shard with a short hash of the shard's keys, which distinguishes shards of
the same name in several folders, and a rewritten shard from the old one. The values are only valid for the inputs that
they were computed on, so the file also holds the settings behind these, and a run with other settings is an error.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmcomponents.data.chat.tokenizer import fingerprint
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.format.shard_index import SUFFIX as INDEX_SUFFIX
from mmcomponents.data.format.shard_index import index_path
from mmcomponents.data.packing.answer_pairs import are_pairs
from mmcomponents.data.packing.sizes import Sizes
from mmcomponents.data.storage import redact
from mmcomponents.data.storage.atomic_write import atomic_path

SUFFIX = ".reference.safetensors"
VERSION = 1
_DIFFERENCES_NAMED = 4
_REMEDY = "run `mmcomponents predict` with this run's settings and initial weights"

Floats = npt.NDArray[np.float32]
Conditions = dict[str, str | int | bool | None]


def check_undisturbed(drawn: Mapping[str, object]) -> None:
    """Checks that a run with stored values uses no random augmentation of its inputs.

    Args:
        drawn: Settings of random augmentations by the name of the argument; None: off.

    Raises:
        ValueError: One of them is on.
    """
    for name, value in drawn.items():
        if value is not None:
            raise ValueError(
                f"data.reference_logps was computed on inputs without augmentation, but data.{name} {value} augments"
                f" each sample at random: set data.{name} to null, or use a reference that is computed while training"
            )


def reference_path(index: Index, shard: int, folder: str | Path) -> Path:
    """Returns the path of the values of a shard."""
    stem = index_path(index.shards[shard], ".").name.removesuffix(INDEX_SUFFIX)
    return Path(folder) / f"{stem}.{index.digest(shard)}{SUFFIX}"


def conditions(index: Index, shard: int, sizes: Sizes) -> Conditions:
    """Returns the settings that determine the inputs of a shard's pairs, by the names of their arguments."""
    renderer = sizes.renderer
    found: Conditions = {
        "tokenizer": fingerprint(renderer.tokenizer),
        "tokens_per_tile": renderer.tokens_per_tile,
        "tile_size": renderer.tiling.tile_size,
        "thumbnail": renderer.tiling.thumbnail,
        "normalization": renderer.normalization,
        "system": renderer.system,
        "control_text": renderer.control_text,
        "frame_template": renderer.frame_template,
        "eval_frames": repr(sizes.frames),
    }
    for source in np.unique(index.columns(shard).source[are_pairs(index, shard)]).tolist():
        tiling, name = sizes.tilings.get(source, renderer.tiling), index.sources[source]
        found[f"min_tiles of the source {name!r}"] = tiling.min_tiles
        found[f"max_tiles of the source {name!r}"] = tiling.max_tiles
    return found


@dataclass(frozen=True)
class ReferenceFile:
    """Contents of the file of a shard.

    Attributes:
        logps: `[samples, 2]` fp32.
        made_with: See `conditions`.
        model: Origin of the weights, for information.
    """

    logps: Floats
    made_with: Conditions
    model: str = ""


def save_references(found: Mapping[Path, ReferenceFile]) -> None:
    """Writes files atomically; none is moved to its final path before all are written."""
    from safetensors.numpy import save

    with ExitStack() as stack:
        for path, file in found.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            about = {"version": VERSION, "made_with": file.made_with, "model": file.model}
            logps = np.ascontiguousarray(file.logps, np.float32)
            # A single metadata key, since safetensors writes several in an order that changes from run to run.
            temporary = stack.enter_context(atomic_path(path))
            temporary.write_bytes(save({"logps": logps}, {"reference": json.dumps(about, sort_keys=True)}))


def _load(path: Path) -> tuple[Floats, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():
            raise OSError("it is a pipe or a device, not a file")
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {})["reference"])
            logps = np.array(file.get_tensor("logps"), np.float32)
        if about["version"] != VERSION or not isinstance(about["made_with"], dict):
            raise ValueError(f"version {about['version']}")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        text = f"{path} has no readable reference log-probabilities ({error}): {_REMEDY}"
        raise DataError(" ".join(text.split())) from error
    return logps, about


class StoredLogps:
    """Stored log-probabilities of a run's pairs.

    Args:
        index: Index of the samples.
        paths: File of each shard; None for a shard without pairs.
        values: `[samples of the shard, 2]` of each shard; None for a shard without pairs.
    """

    def __init__(self, index: Index, paths: Sequence[Path | None], values: Sequence[Floats | None]) -> None:
        self.begins, self.paths, self.values = index.begins, list(paths), list(values)

    @classmethod
    def open(cls, folder: str | Path, index: Index, sizes: Sizes) -> StoredLogps:
        """Reads the files of all shards with pairs.

        Args:
            folder: Folder of the files.
            index: Index of the run's samples.
            sizes: Renderer, tilings and frame sampling of the run.

        Raises:
            DataError: A file is missing or unreadable, has another number of samples, or its values were computed on
                other inputs than those of the run.
        """
        paths: list[Path | None] = []
        values: list[Floats | None] = []
        for shard, place in enumerate(index.shards):
            pairs = are_pairs(index, shard)
            if not pairs.any():
                paths.append(None)
                values.append(None)
                continue
            path = reference_path(index, shard, folder)
            if not path.is_file():
                raise DataError(_missing(path, redact(place), int(pairs.sum())))
            logps, about = _load(path)
            if logps.shape != (len(pairs), 2):
                has = f"the shard {redact(place)} has {len(pairs)} samples"
                raise DataError(f"{path} has values {list(logps.shape)}, {has}: {_REMEDY}")
            theirs, ours = about["made_with"], conditions(index, shard, sizes)
            differ = [name for name in (ours | theirs) if theirs.get(name) != ours.get(name)]
            if differ:
                lines = [f"{name} {theirs.get(name)!r} in the file, {ours.get(name)!r} in the run" for name in differ]
                more = f" and {len(lines) - _DIFFERENCES_NAMED} more" if len(lines) > _DIFFERENCES_NAMED else ""
                raise DataError(
                    f"{path} was computed on other inputs than this run's:"
                    f" {'; '.join(lines[:_DIFFERENCES_NAMED])}{more}: {_REMEDY}"
                )
            logps[~pairs] = np.nan
            paths.append(path)
            values.append(logps)
        return cls(index, paths, values)

    def of(self, sample: int) -> tuple[float, float]:
        """Returns the log-probabilities of the chosen and the rejected answer of a pair.

        Raises:
            SampleError: The pair has none.
        """
        shard = int(np.searchsorted(self.begins, sample, side="right")) - 1
        values = self.values[shard]
        chosen, rejected = (np.nan, np.nan) if values is None else values[sample - int(self.begins[shard])].tolist()
        if not (np.isfinite(chosen) and np.isfinite(rejected)):
            raise SampleError(self._reason(shard))
        return chosen, rejected

    def unscored(self, index: Index, but: Collection[int] = ()) -> list[tuple[int, str]]:
        """Returns (sample, reason) of the pairs without values.

        Args:
            index: Index of the samples.
            but: Samples to ignore, which are skipped for another reason.
        """
        found: list[tuple[int, str]] = []
        for shard, values in enumerate(self.values):
            if values is not None:
                lacking = are_pairs(index, shard) & ~np.isfinite(values).all(1)
                numbers = (int(self.begins[shard]) + np.flatnonzero(lacking)).tolist()
                found += [(number, self._reason(shard)) for number in numbers if number not in but]
        return found

    def _reason(self, shard: int) -> str:
        return f"{self.paths[shard]} has no log-probabilities of this pair: {_REMEDY}"


def _missing(path: Path, shard: str, pairs: int) -> str:
    text = f"{path} with the reference log-probabilities of the {pairs} pairs of {shard} does not exist"
    stem = path.name.removesuffix(SUFFIX).rpartition(".")[0]
    others = sorted(other.name for other in path.parent.glob(f"*{SUFFIX}") if other.name.startswith(f"{stem}."))
    if others:
        text += f" ({others[0]} does, for a shard of this name with other samples)"
    return f"{text}: {_REMEDY}, or use a reference that is computed while training"

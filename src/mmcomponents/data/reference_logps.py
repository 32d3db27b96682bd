"""Log-probabilities of the answers of pairs under a reference model, stored in a folder, a file for each shard.

A file has the tensor `logps`, fp32 `[samples of the shard, 2]` (chosen, rejected), NaN where a sample is no pair or
could not be read. Its name is that of the shard with a short hash of the shard's keys: shards of one name from several
folders do not get into each other's way, and a shard that was written anew is not taken for the old one. Values belong
to inputs, so the file also says how these were made, and a run that makes them in another way is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.index import Index
from mmcomponents.data.index_file import SUFFIX as INDEX_SUFFIX
from mmcomponents.data.index_file import index_path
from mmcomponents.data.pairs import are_pairs
from mmcomponents.data.sizes import Sizes
from mmcomponents.data.storage import redact
from mmcomponents.data.tokenizer import fingerprint

SUFFIX = ".reference.safetensors"
VERSION = 1
_DIFFERENCES_NAMED = 4
_REMEDY = "run `mmcomponents predict` with the settings and the weights that this run begins with"

Floats = npt.NDArray[np.float32]
Conditions = dict[str, str | int | bool | None]


def check_undisturbed(drawn: Mapping[str, object]) -> None:
    """Makes sure that nothing is drawn for the inputs of a run with stored values.

    Args:
        drawn: What may be drawn, by the name of the argument; None: it is not.

    Raises:
        ValueError: Something is.
    """
    for name, value in drawn.items():
        if value is not None:
            raise ValueError(
                f"data.reference_logps was computed on undisturbed inputs and data.{name} {value} draws others for each"
                f" sample: set data.{name} to null, or take a reference that is computed while training"
            )


def reference_path(index: Index, shard: int, folder: str | Path) -> Path:
    """Where the values of a shard lie."""
    stem = index_path(index.shards[shard], ".").name.removesuffix(INDEX_SUFFIX)
    return Path(folder) / f"{stem}.{index.digest(shard)}{SUFFIX}"


def conditions(index: Index, shard: int, sizes: Sizes) -> Conditions:
    """All that the inputs of a shard's pairs follow from, by the names of the arguments that set it."""
    how = sizes.renderer
    found: Conditions = {
        "tokenizer": fingerprint(how.tokenizer),
        "tokens_per_tile": how.tokens_per_tile,
        "tile_size": how.tiling.tile_size,
        "thumbnail": how.tiling.thumbnail,
        "normalization": how.normalization,
        "system": how.system,
        "control_text": how.control_text,
        "frame_template": how.frame_template,
        "eval_frames": repr(sizes.frames),
    }
    rows = index.rows(shard)
    for source in np.unique(rows.source[are_pairs(index, shard)]).tolist():
        tiling, name = sizes.tilings.get(source, how.tiling), index.sources[source]
        found[f"min_tiles of the source {name!r}"] = tiling.min_tiles
        found[f"max_tiles of the source {name!r}"] = tiling.max_tiles
    return found


@dataclass(frozen=True)
class ReferenceFile:
    """What is written of a shard.

    Attributes:
        logps: `[samples, 2]` fp32.
        made_with: See `conditions`.
        model: Where the weights came from, for whoever looks at the file.
    """

    logps: Floats
    made_with: Conditions
    model: str = ""


def save_references(found: Mapping[Path, ReferenceFile]) -> None:
    """Writes files; each is whole or not there, and none takes its place before all are written."""
    from safetensors.numpy import save

    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in found}
    try:
        for path, file in found.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            about = {"version": VERSION, "made_with": file.made_with, "model": file.model}
            logps = np.ascontiguousarray(file.logps, np.float32)
            # One key: safetensors writes several in an order that changes from run to run.
            temporary[path].write_bytes(save({"logps": logps}, {"reference": json.dumps(about, sort_keys=True)}))
        for path, name in temporary.items():
            os.replace(name, path)
    finally:
        for name in temporary.values():
            name.unlink(missing_ok=True)


def _load(path: Path) -> tuple[Floats, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {})["reference"])
            logps = np.array(file.get_tensor("logps"), np.float32)
        if about["version"] != VERSION or not isinstance(about["made_with"], dict):
            raise ValueError(f"version {about['version']}")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        text = f"{path} holds no reference log-probabilities that can be read ({error}): {_REMEDY}"
        raise DataError(" ".join(text.split())) from error
    return logps, about


class StoredLogps:
    """The stored values of a run's pairs.

    Args:
        index: The samples.
        paths: File of each shard; None: it has no pairs.
        values: `[samples of the shard, 2]` of each shard; None: it has no pairs.
    """

    def __init__(self, index: Index, paths: Sequence[Path | None], values: Sequence[Floats | None]) -> None:
        self.begins, self.paths, self.values = index.begins, list(paths), list(values)

    @classmethod
    def open(cls, folder: str | Path, index: Index, sizes: Sizes) -> StoredLogps:
        """Reads the files of all shards with pairs.

        Args:
            folder: Where they lie.
            index: The samples of the run.
            sizes: What the run makes of them.

        Raises:
            DataError: A file is missing, cannot be read, is of another number of samples, or its values were computed
                on other inputs than those of the run.
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
                lines = [f"{name} {theirs.get(name)!r} there, {ours.get(name)!r} here" for name in differ]
                more = f" and {len(lines) - _DIFFERENCES_NAMED} more" if len(lines) > _DIFFERENCES_NAMED else ""
                raise DataError(
                    f"{path} was computed on other inputs than this run has:"
                    f" {'; '.join(lines[:_DIFFERENCES_NAMED])}{more}: {_REMEDY}"
                )
            logps[~pairs] = np.nan
            paths.append(path)
            values.append(logps)
        return cls(index, paths, values)

    def of(self, sample: int) -> tuple[float, float]:
        """Log-probabilities of the chosen and the rejected answer of a pair.

        Raises:
            SampleError: There are none.
        """
        shard = int(np.searchsorted(self.begins, sample, side="right")) - 1
        values = self.values[shard]
        chosen, rejected = (np.nan, np.nan) if values is None else values[sample - int(self.begins[shard])].tolist()
        if not (np.isfinite(chosen) and np.isfinite(rejected)):
            raise SampleError(self._reason(shard))
        return chosen, rejected

    def unscored(self, index: Index, but: Collection[int] = ()) -> list[tuple[int, str]]:
        """(sample, reason) of the pairs without values.

        Args:
            index: The samples.
            but: Samples that are left out for another reason.
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
    text = f"there is no {path} with reference log-probabilities of the {pairs} pairs of {shard}"
    stem = path.name.removesuffix(SUFFIX).rpartition(".")[0]
    others = sorted(other.name for other in path.parent.glob(f"*{SUFFIX}") if other.name.startswith(f"{stem}."))
    if others:
        text += f" (but {others[0]}, of a shard of this name with other samples)"
    return f"{text}: {_REMEDY}, or take a reference that is computed while training"

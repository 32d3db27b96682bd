"""What `predict` says of pairs, written down for a training that measures itself against it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mmcomponents.data.errors import DataError
from mmcomponents.data.pairs import PairsOnce
from mmcomponents.data.reference_logps import ReferenceFile, conditions, reference_path, save_references

logger = logging.getLogger(__name__)

_NAMED = 20


@dataclass(frozen=True)
class WrittenLogps:
    """What was written.

    Attributes:
        folder: Where the files lie.
        files: How many.
        pairs: Pairs with log-probabilities.
        unreadable: Pairs without: broken ones, and those that no pack can hold.
        others: Samples that are no pairs.
        chosen: Mean log-probability of the chosen answers.
        rejected: Mean log-probability of the rejected answers.
    """

    folder: Path
    files: int
    pairs: int
    unreadable: int
    others: int
    chosen: float
    rejected: float


class ReferenceLogps(Callback):
    """Writes the log-probabilities of pairs that `predict` computes of the shards of `data.predict`.

    The files, one for each shard with pairs, are written at the end and by rank zero alone. `data.reference_logps`
    takes the folder. In `fit` and other verbs the callback does nothing.

    Args:
        folder: Where to write; made if it is missing.

    Attributes:
        written: What was written; None: nothing yet.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.written: WrittenLogps | None = None
        self._rows: list[tuple[int, float, float]] = []
        self._refused: list[str] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts anew, and makes the folder: hours later would be too late to find that it cannot be.

        Raises:
            DataError: The folder cannot be made.
        """
        self.written, self._rows, self._refused = None, [], []
        if _pairs(trainer) is None:
            logger.warning("data.predict is not set: no reference log-probabilities will be written")
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"the folder {self.folder} for log-probabilities cannot be made: {error}") from error

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps what was computed of a pack."""
        if _pairs(trainer) is not None:
            self._rows += [(row["sample"], row["chosen"], row["rejected"]) for row in outputs]
            self._refused += batch.refused

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers from all ranks and writes.

        Raises:
            DataError: Not all pairs were read, or the model gave one that is no number.
        """
        pairs = _pairs(trainer)
        if pairs is None:
            return
        rows, refused = _from_all_ranks(self._rows), _from_all_ranks(self._refused)
        self._rows, self._refused = [], []
        samples = np.array([row[0] for row in rows], np.int64)
        logps = np.array([row[1:] for row in rows], np.float64).reshape(-1, 2)
        left = len(pairs.samples) - len(np.unique(samples)) - len(refused)
        if left:
            raise DataError(
                f"{left} of {len(pairs.samples)} pairs were not read (trainer.limit_predict_batches?): nothing is"
                " written"
            )
        if (odd := np.flatnonzero(~np.isfinite(logps).all(1))).size:
            name = pairs.index.name(int(samples[odd[0]]))
            raise DataError(
                f"the log-probabilities of {odd.size} of {len(rows)} pairs are no finite numbers, the first of them"
                f" {logps[odd[0]].tolist()} of {name}: nothing is written"
            )
        self.written = self._summary(pairs, logps, refused)
        if trainer.is_global_zero:
            task: Any = pl_module
            self._write(
                pairs, samples, logps, str(trainer.ckpt_path or getattr(task, "weights", None) or "drawn weights")
            )

    def _summary(self, pairs: PairsOnce, logps: Any, refused: Sequence[str]) -> WrittenLogps:
        large = [f"{pairs.index.name(sample)}: {reason}" for sample, reason in pairs.refused]
        unreadable = [*refused, *large]
        if unreadable:
            more = "; …" if len(unreadable) > _NAMED else ""
            logger.warning(
                "%d pairs have no log-probabilities: %s%s", len(unreadable), "; ".join(unreadable[:_NAMED]), more
            )
        means = logps.mean(0).tolist() if len(logps) else [float("nan")] * 2
        files = len(_shards(pairs))
        return WrittenLogps(self.folder, files, len(logps), len(unreadable), pairs.others, *means)

    def _write(self, pairs: PairsOnce, samples: Any, logps: Any, model: str) -> None:
        index, files = pairs.index, dict[Path, ReferenceFile]()
        for shard in _shards(pairs):
            first, end = index.begins[shard : shard + 2].tolist()
            values = np.full((end - first, 2), np.nan, np.float32)
            here = (samples >= first) & (samples < end)
            values[samples[here] - first] = logps[here]
            made_with = conditions(index, shard, pairs.sizes)
            files[reference_path(index, shard, self.folder)] = ReferenceFile(values, made_with, model)
        try:
            save_references(files)
        except OSError as error:
            raise DataError(f"log-probabilities cannot be written to {self.folder}: {error}") from error


def _pairs(trainer: Trainer) -> PairsOnce | None:
    """The pairs of the run's data."""
    found: PairsOnce | None = getattr(trainer.datamodule, "predict_pairs", None)  # type: ignore[attr-defined]
    return found


def _shards(pairs: PairsOnce) -> list[int]:
    """Shards with pairs, those included that no pack can hold."""
    numbers = np.concatenate([pairs.samples, np.array([sample for sample, _ in pairs.refused], np.int64)])
    found: list[int] = np.unique(pairs.index.shard_of(numbers)).tolist()
    return found


def _from_all_ranks(mine: list[Any]) -> list[Any]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return mine
    lists: list[list[Any]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(lists, mine)
    return [row for rank in lists for row in rank]

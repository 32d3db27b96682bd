"""Callback that writes the log-probabilities of pairs from `predict`, for use as the reference of a later training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from mmcomponents.data.errors import DataError
from mmcomponents.data.loading.stored_logps import ReferenceFile, conditions, reference_path, save_references
from mmcomponents.data.packing.answer_pairs import PairsOnce
from mmcomponents.training.answer_report import gather_lists

logger = logging.getLogger(__name__)

_NAMED = 20


@dataclass(frozen=True)
class WrittenLogps:
    """Summary of the written files.

    Attributes:
        folder: Folder of the files.
        files: Number of files.
        pairs: Number of pairs with log-probabilities.
        unreadable: Number of pairs without: broken ones, and those that no pack can hold.
        others: Number of samples that are not pairs.
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
    """Writes the log-probabilities of pairs that `predict` computes for the shards of `data.predict`.

    Rank zero writes one file for each shard with pairs at the end. `data.reference_logps` takes the folder. The
    callback does nothing in `fit` and other subcommands.

    Args:
        folder: Output folder; created if it does not exist.

    Attributes:
        written: Summary of the written files; None before they are written.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.written: WrittenLogps | None = None
        self._rows: list[tuple[int, float, float]] = []
        self._skipped: list[str] = []

    def writes(self, trainer: Trainer) -> bool:
        """Whether a run of `predict` writes log-probabilities: its data are pairs."""
        return _pairs(trainer) is not None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clears the results and creates the folder, so that an error occurs before hours of computation.

        Raises:
            DataError: The folder cannot be created.
        """
        self.written, self._rows, self._skipped = None, [], []
        if _pairs(trainer) is None:
            logger.warning("data.predict is not set: no reference log-probabilities will be written")
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"the folder {self.folder} for log-probabilities cannot be created: {error}") from error

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collects the log-probabilities of a pack."""
        if _pairs(trainer) is not None:
            self._rows += [(row["sample"], row["chosen"], row["rejected"]) for row in outputs]
            self._skipped += batch.refused

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers the results of all ranks and writes the files.

        Raises:
            DataError: Not all pairs were read, or a log-probability is not finite.
        """
        pairs = _pairs(trainer)
        if pairs is None:
            return
        rows, skipped = gather_lists(self._rows), gather_lists(self._skipped)
        self._rows, self._skipped = [], []
        samples = np.array([row[0] for row in rows], np.int64)
        logps = np.array([row[1:] for row in rows], np.float64).reshape(-1, 2)
        unread = len(pairs.samples) - len(np.unique(samples)) - len(skipped)
        if unread:
            raise DataError(
                f"{unread} of {len(pairs.samples)} pairs were not read (trainer.limit_predict_batches?): nothing is"
                " written"
            )
        if (odd := np.flatnonzero(~np.isfinite(logps).all(1))).size:
            name = pairs.index.name(int(samples[odd[0]]))
            raise DataError(
                f"the log-probabilities of {odd.size} of {len(rows)} pairs are not finite, the first:"
                f" {logps[odd[0]].tolist()} of {name}: nothing is written"
            )
        self.written = self._summary(pairs, logps, skipped)
        if trainer.is_global_zero:
            task: Any = pl_module
            self._write(
                pairs, samples, logps, str(trainer.ckpt_path or getattr(task, "weights", None) or "drawn weights")
            )

    def _summary(self, pairs: PairsOnce, logps: Any, skipped: Sequence[str]) -> WrittenLogps:
        large = [f"{pairs.index.name(sample)}: {reason}" for sample, reason in pairs.refused]
        unreadable = [*skipped, *large]
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
    """Returns the pairs of the datamodule; None if it has none."""
    found: PairsOnce | None = getattr(trainer.datamodule, "predict_pairs", None)  # type: ignore[attr-defined]
    return found


def _shards(pairs: PairsOnce) -> list[int]:
    """Returns the shards with pairs, including pairs that no pack can hold."""
    numbers = np.concatenate([pairs.samples, np.array([sample for sample, _ in pairs.refused], np.int64)])
    found: list[int] = np.unique(pairs.index.shard_of(numbers)).tolist()
    return found

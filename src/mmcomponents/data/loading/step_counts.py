"""Counts over the packs of an optimizer step: over the accumulation window and all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmcomponents.batch import PackedBatch
from mmcomponents.data.loading.lookahead import Sums
from mmcomponents.data.loading.skipped import SkippedSamples, is_padding, occurrences, samples_seen

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_SEEN, _REFUSED = "data/seen", "data/refused"


class StepCounts:
    """Adds the counts of the data to those of the objective.

    `data/refused` is the number of samples skipped so far. `data/tokens/S` and `data/samples/S` are the counts of
    source number S. From `data/packs`, `data/tokens`, `data/tiles` and the sums of squares of the last two follow the
    fill and the balance of the step's packs.

    Args:
        skipped: Counts the skipped samples.
        sources: Number of sources, so that all ranks sum over the same names.
        capacity: Largest number of tokens of a pack; 0: unknown.
    """

    def __init__(self, skipped: SkippedSamples, sources: int, capacity: int) -> None:
        self.skipped, self.sources, self.capacity = skipped, sources, capacity
        self._trainer: Trainer | None = None

    def of(self, batch: PackedBatch, trainer: Trainer | None) -> Sums:
        """Computes the counts of one pack on this rank."""
        self._trainer = trainer
        self.skipped.warn(batch.refused)
        counts = None if trainer is None else getattr(trainer.lightning_module, "counts", None)
        return {**(counts(batch) if counts else {}), **self._own(batch)}

    def _own(self, batch: PackedBatch) -> Sums:
        lengths, source = batch.layout.cu_seqlens.diff().long(), batch.segment_source
        real, rows = source >= 0, occurrences(batch)
        tokens = 0.0 if is_padding(batch) else float(lengths.sum())
        tiles = 0.0 if batch.images is None else float(len(batch.images.tile_image))
        own = {_SEEN: float(samples_seen(batch)), _REFUSED: float(len(batch.refused))}
        own |= {
            "data/packs": 1.0,
            "data/tokens": tokens,
            "data/tiles": tiles,
            "data/capacity": float(self.capacity),
        }
        own |= {"data/tokens_squared": tokens**2, "data/tiles_squared": tiles**2}
        by_source = torch.bincount(source[real], weights=lengths[real].double(), minlength=self.sources)
        seen = torch.bincount(rows[rows[:, 0] >= 0, 0], minlength=self.sources)
        for number in range(self.sources):
            own[f"data/tokens/{number}"] = float(by_source[number])
            own[f"data/samples/{number}"] = float(seen[number])
        return own

    def reduce(self, sums: Sums) -> Sums:
        """Sums counts over all ranks.

        Raises:
            DataError: Too many samples were skipped.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            assert self._trainer is not None
            names = sorted(sums)
            values = torch.tensor([sums[name] for name in names], dtype=torch.float64)
            values = values.to(self._trainer.strategy.root_device)
            torch.distributed.all_reduce(values)
            sums = dict(zip(names, values.tolist(), strict=True))
        # Sums over all ranks: all of them raise or none, so that no rank waits for one that has stopped.
        self.skipped.count(sums.pop(_SEEN), sums[_REFUSED])
        return sums | {_REFUSED: self.skipped.refused}

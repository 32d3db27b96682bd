"""What is counted of the packs of an optimizer step, over the accumulation window and all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmcomponents.batch import PackedBatch
from mmcomponents.data.lookahead import Sums
from mmcomponents.data.plan import Budgets
from mmcomponents.data.refusals import Refusals, samples_seen

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_SEEN, _REFUSED = "data/seen", "data/refused"


class StepCounts:
    """Adds what the data itself counts to what the objective does.

    `data/refused` is the number of samples left out so far. `data/tokens/S` and `data/samples/S` are those of source
    number S; `data/packs`, `data/tokens`, `data/tiles` and the sums of squares of the last two tell how full the packs
    of the step are and how alike.

    Args:
        refusals: Where samples that could not be used are counted.
        sources: Number of sources: all ranks bring the same names to the sum.
        budgets: Of a pack.
    """

    def __init__(self, refusals: Refusals, sources: int, budgets: Budgets) -> None:
        self.refusals, self.sources, self.budgets = refusals, sources, budgets
        self._trainer: Trainer | None = None

    def of(self, batch: PackedBatch, trainer: Trainer | None) -> Sums:
        """Counts of one pack on this rank."""
        self._trainer = trainer
        self.refusals.warn(batch.refused)
        counts = None if trainer is None else getattr(trainer.lightning_module, "counts", None)
        return {**(counts(batch) if counts else {}), **self._own(batch)}

    def _own(self, batch: PackedBatch) -> Sums:
        lengths, source = batch.layout.cu_seqlens.diff().long(), batch.segment_source
        real = source >= 0
        tokens = float(lengths[real].sum())
        tiles = 0.0 if batch.images is None else float(len(batch.images.tile_image))
        own = {_SEEN: float(samples_seen(batch)), _REFUSED: float(len(batch.refused))}
        own |= {
            "data/packs": 1.0,
            "data/tokens": tokens,
            "data/tiles": tiles,
            "data/capacity": float(self.budgets.tokens),
        }
        own |= {"data/tokens_squared": tokens**2, "data/tiles_squared": tiles**2}
        by_source = torch.bincount(source[real], weights=lengths[real].double(), minlength=self.sources)
        seen = torch.bincount(source[real], minlength=self.sources)
        if batch.pairs is not None:  # two segments of one sample
            seen = seen - torch.bincount(source[batch.pairs.rejected], minlength=self.sources)
        for number in range(self.sources):
            own[f"data/tokens/{number}"] = float(by_source[number])
            own[f"data/samples/{number}"] = float(seen[number])
        return own

    def reduce(self, sums: Sums) -> Sums:
        """Sums over all ranks.

        Raises:
            DataError: Too many samples could not be used.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            assert self._trainer is not None
            names = sorted(sums)
            values = torch.tensor([sums[name] for name in names], dtype=torch.float64)
            values = values.to(self._trainer.strategy.root_device)
            torch.distributed.all_reduce(values)
            sums = dict(zip(names, values.tolist(), strict=True))
        # These are sums over all ranks: each comes to the same verdict, and none waits for another that has stopped.
        self.refusals.count(sums.pop(_SEEN), sums[_REFUSED])
        return sums | {_REFUSED: self.refusals.refused}

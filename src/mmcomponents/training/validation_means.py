"""Logging of validation losses as means over all data of all ranks, independent of packing."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from mmcomponents.batch import LossOutput
from mmcomponents.objectives import Objective


class ValidationMeans:
    """Accumulates the losses of packs and logs their means.

    Each part is weighted by the count that it is a mean over. A loss of parts with different counts is computed from
    their means: a mean of the packs' losses would depend on which samples share a pack.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}

    def clear(self) -> None:
        """Clears the sums of the last validation, which may have been interrupted."""
        self._sums, self._counts = {}, {}

    def add(self, objective: Objective, out: LossOutput, counts: dict[str, float]) -> None:
        """Adds a pack.

        Args:
            objective: Objective of the loss.
            out: Loss of the pack and its parts, with the pack's own counts as totals.
            counts: Counts of the pack.
        """
        parts = out.parts | {"loss": out.total}
        for name, count in _counted(objective).items():
            value = parts[name].detach().float() * counts[count]
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
            self._counts[name] = self._counts.get(name, 0.0) + counts[count]

    def write(self, task: LightningModule, objective: Objective) -> None:
        """Logs the means as `val/NAME`; a collective operation that every rank must call, also without packs.

        Args:
            task: The validated module.
            objective: Objective of the loss.
        """
        names, none = list(_counted(objective)), torch.zeros((), device=task.device)
        sums = torch.stack([self._sums.get(name, none) for name in names])
        counts = sums.new_tensor([self._counts.get(name, 0.0) for name in names])
        reduced = task.trainer.strategy.reduce(torch.stack((sums, counts)), reduce_op="sum")
        assert isinstance(reduced, Tensor)
        means = dict(zip(names, reduced[0] / reduced[1], strict=True))
        if objective.loss_weights:
            terms = [weight * means[name] for name, weight in objective.loss_weights.items()]
            means["loss"] = torch.stack(terms).sum()
        for name, value in means.items():
            task.log(f"val/{name}", value, prog_bar=name == "loss", batch_size=1)
        self.clear()


def _counted(objective: Objective) -> dict[str, str]:
    """Returns the name of the count that each part is a mean over."""
    return {"loss": objective.denominator, **objective.validated}

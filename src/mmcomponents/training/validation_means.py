"""Logging of validation losses as means over all data of all ranks, independent of packing."""

from __future__ import annotations

import logging
from math import isfinite

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from mmcomponents.batch import LossOutput
from mmcomponents.objectives import Objective

logger = logging.getLogger(__name__)


class ValidationMeans:
    """Accumulates the losses of packs and logs their means.

    Each part is weighted by the count that it is a mean over. A loss of parts with different counts is computed from
    their means: a mean of the packs' losses would depend on which samples share a pack.
    """

    def __init__(self) -> None:
        self._has_warned = False
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

        The first mean that is not finite is also logged as a warning; it does not end the run.

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
        self._warn(task, names, *reduced.tolist())
        if objective.loss_weights:
            terms = [weight * means[name] for name, weight in objective.loss_weights.items()]
            means["loss"] = torch.stack(terms).sum()
        for name, value in means.items():
            task.log(f"val/{name}", value, prog_bar=name == "loss", batch_size=1)
        self.clear()

    def _warn(self, task: LightningModule, names: list[str], sums: list[float], counts: list[float]) -> None:
        wrong = [name for name, value, count in zip(names, sums, counts, strict=True) if count and not isfinite(value)]
        if not wrong or self._has_warned or not task.trainer.is_global_zero:
            return
        self._has_warned = True
        logger.warning(
            "step %d: %s %s NaN or infinite; later such values are only logged",
            task.trainer.global_step,
            ", ".join(f"val/{name}" for name in wrong),
            "is" if len(wrong) == 1 else "are",
        )


def _counted(objective: Objective) -> dict[str, str]:
    """Returns the name of the count that each part is a mean over."""
    return {"loss": objective.denominator, **objective.validated}

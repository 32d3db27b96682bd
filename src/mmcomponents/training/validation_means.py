"""What a validation logs of the loss: means over all of its data, on all ranks, however that is packed."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from mmcomponents.batch import LossOutput
from mmcomponents.objectives import Objective


class ValidationMeans:
    """Adds up what an objective says of each pack, and logs the means.

    Each part is weighted by the count that it is a mean over. A loss of parts with different counts is put together
    from their means: a mean of the packs' losses would depend on which samples share a pack.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}

    def clear(self) -> None:
        """Forgets the last validation, which may have been broken off."""
        self._sums, self._counts = {}, {}

    def add(self, objective: Objective, out: LossOutput, counts: dict[str, float]) -> None:
        """Adds a pack.

        Args:
            objective: What has made the loss.
            out: The loss of the pack and its parts, with the pack's own counts as totals.
            counts: Counts of the pack.
        """
        parts = out.parts | {"loss": out.total}
        for name, count in _counted(objective).items():
            value = parts[name].detach().float() * counts[count]
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
            self._counts[name] = self._counts.get(name, 0.0) + counts[count]

    def write(self, task: LightningModule, objective: Objective) -> None:
        """Logs the means as `val/NAME`; every rank takes part, also one that has seen no pack.

        Args:
            task: What the trainer validates.
            objective: What has made the loss.
        """
        names, none = list(_counted(objective)), torch.zeros((), device=task.device)
        sums = torch.stack([self._sums.get(name, none) for name in names])
        counts = sums.new_tensor([self._counts.get(name, 0.0) for name in names])
        whole = task.trainer.strategy.reduce(torch.stack((sums, counts)), reduce_op="sum")
        assert isinstance(whole, Tensor)
        means = dict(zip(names, whole[0] / whole[1], strict=True))
        if objective.loss_weights:
            terms = [weight * means[name] for name, weight in objective.loss_weights.items()]
            means["loss"] = torch.stack(terms).sum()
        for name, value in means.items():
            task.log(f"val/{name}", value, prog_bar=name == "loss", batch_size=1)
        self.clear()


def _counted(objective: Objective) -> dict[str, str]:
    """The count that each part is a mean over."""
    return {"loss": objective.denominator, **objective.validated}

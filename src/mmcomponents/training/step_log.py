"""Logging of the loss of a training step, summed over the micro-batches of the accumulation window and over ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

_BY_SOURCE = "nll/"


class StepLog:
    """Sums the parts of the loss of the micro-batches, which are shares of the step's loss, and logs the sums.

    Likelihoods by source are passed to the loggers directly, and only if the step has targets of that source:
    Lightning would repeat the last value of a source in every step without it.
    """

    def __init__(self) -> None:
        self.source_names: Sequence[str] = ()
        self._sums: dict[str, Tensor] = {}

    def add(self, parts: dict[str, Tensor]) -> None:
        """Adds the parts of a micro-batch's loss by name, a scalar each."""
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value

    def write(self, task: LightningModule, totals: dict[str, float]) -> None:
        """Logs the step as `train/NAME`; a collective operation that every rank must call.

        Args:
            task: The trained module.
            totals: Counts of the step over all ranks, including `targets/0` and so on.
        """
        sums, self._sums = self._sums, {}
        by_source = {n.removeprefix(_BY_SOURCE): sums.pop(n) for n in list(sums) if n.startswith(_BY_SOURCE)}
        for name, value in sums.items():
            task.log(f"train/{name}", value, prog_bar=name == "loss", sync_dist=True, reduce_fx="sum", batch_size=1)
        trainer = task.trainer
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not trainer.loggers or not every or (trainer.global_step + 1) % every:
            return
        found = data_metrics(totals, self._name)
        if by_source:
            reduced = trainer.strategy.reduce(torch.stack(list(by_source.values())), reduce_op="sum")
            assert isinstance(reduced, Tensor)
            values = dict(zip(by_source, reduced.tolist(), strict=True))
            found |= {f"train/nll/{self._name(s)}": v for s, v in values.items() if totals.get(f"targets/{s}")}
        for logger in trainer.loggers if found else ():
            logger.log_metrics(found, step=trainer.global_step)

    def _name(self, source: str) -> str:
        number = int(source)
        return (self.source_names[number] or source) if number < len(self.source_names) else source


def data_metrics(totals: Mapping[str, float], name: Callable[[str], str]) -> dict[str, float]:
    """Computes the data metrics of a step: tokens and samples of each source, fill and spread of its packs.

    Args:
        totals: Counts of the step over all ranks, see `mmcomponents.data.loading.step_counts`.
        name: Returns the name of a source by its number.

    Returns:
        `data/refused`, number of samples skipped so far; `data/tokens/SOURCE` and `data/samples/SOURCE`; `data/fill`,
        tokens divided by the capacity of the packs; for a step of several packs `data/spread_tokens` and
        `data/spread_tiles`, standard deviation of the packs divided by their mean.
    """
    packs = totals.get("data/packs", 0.0)
    if not packs:
        return {}
    found = {"data/refused": totals["data/refused"]}
    if totals["data/capacity"]:
        found["data/fill"] = totals["data/tokens"] / totals["data/capacity"]
    for what in ("tokens", "samples"):
        start = f"data/{what}/"
        found |= {f"{start}{name(n.removeprefix(start))}": v for n, v in totals.items() if n.startswith(start)}
    for what in ("tokens", "tiles"):
        mean = totals[f"data/{what}"] / packs
        if packs > 1 and mean:
            variance = totals[f"data/{what}_squared"] / packs - mean**2
            found[f"data/spread_{what}"] = math.sqrt(max(0.0, variance)) / mean
    return found

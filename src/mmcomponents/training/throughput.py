"""Callback that logs throughput, FLOPs, model FLOPs utilisation and data wait of a run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import PassThroughProfiler

from mmcomponents.batch import PackedBatch
from mmcomponents.model import MultimodalModel
from mmcomponents.training.distributed.fsdp2 import FSDP2Strategy
from mmcomponents.training.flops import PREFIX, peak_flops, step_factors
from mmcomponents.training.task import MultimodalTask

_WEIGHT = "weight"
"""Denominator of the losses of weighted targets, a sum of weights that is no amount of work."""


class FetchClock(PassThroughProfiler):
    """Measures the total time that the training loop waits for its next batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._since: float | None = None

    def start(self, action_name: str) -> None:
        """Starts the clock if the action is the fetch of a training batch."""
        if action_name.endswith("train_dataloader_next"):
            self._since = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Stops the clock."""
        if action_name.endswith("train_dataloader_next") and self._since is not None:
            self.seconds, self._since = self.seconds + time.perf_counter() - self._since, None


@dataclass
class Step:
    """Optimizer step.

    Attributes:
        seconds: Duration.
        waited: Seconds spent waiting for data.
        work: Work over all ranks, by name.
        counted: Count over all ranks by which the objective divides its loss, by its name; empty for a weight.
    """

    seconds: float
    waited: float
    work: dict[str, float]
    counted: dict[str, float] = field(default_factory=dict)


class Throughput(Callback):
    """Logs speed and cost, as means over the last optimizer steps.

    - `perf/tokens_per_second`, `perf/tiles_per_second`, `perf/targets_per_second`: over all ranks, without padding.
      If the packs have no labels, `perf/NAME_per_second` takes the place of the targets: NAME is the count by which the
      objective divides its loss (`Objective.denominator`), such as boxes.
    - `perf/flops/SLOT`: floating-point operations of a step on all ranks, forward and backward; see
      `mmcomponents.training.flops.step_factors` for the cost of a frozen slot.
    - `perf/mfu`: fraction of the devices' peak FLOPs (PaLM, arXiv 2204.02311, appendix B), if Lightning supports the
      device; not on CPUs.
    - `perf/data_wait`: fraction of the time that this rank waits for its next batch. It is measured in place of
      Lightning's profiler and not logged if the trainer has a profiler, which then reports it.

    The counts are part of the packs (`batch.totals`): the loader computes them on the host and sums them with those of
    the loss, so a step does not synchronise with the device. Packs without totals are counted on their device. Time in
    validation is excluded.

    Args:
        window: Number of optimizer steps that means are taken over. None: the trainer's `log_every_n_steps`.
    """

    def __init__(self, window: int | None = None) -> None:
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.window = window
        self._steps: deque[Step] = deque()
        self._clock: FetchClock | None = None
        self._work: dict[str, float] = {}
        self._counted: dict[str, float] = {}
        self._factors: dict[str, float] = {}
        self._peak: float | None = None
        self._begun = self._waited = self._paused = self._pause = 0.0
        self._global_step = self._every = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clocks."""
        model = getattr(pl_module, "model", None)
        self._factors = step_factors(model) if isinstance(model, MultimodalModel) else {}
        self._every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        self._steps = deque(maxlen=self.window or max(1, self._every))
        profiler: Any = trainer.profiler  # type: ignore[attr-defined]
        if type(profiler) is PassThroughProfiler:
            profiler = trainer.profiler = FetchClock()  # type: ignore[attr-defined]
        self._clock = profiler if isinstance(profiler, FetchClock) else None
        self._peak = peak_flops(trainer.strategy.root_device, compute_dtype(trainer))
        self._global_step = trainer.global_step
        self._begin()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: PackedBatch, batch_idx: int
    ) -> None:
        """Stores the counts of the step, which every micro-batch contains."""
        totals = batch.totals or {}
        if f"{PREFIX}tokens" not in totals and isinstance(pl_module, MultimodalTask):
            totals = pl_module.counts(batch)
        self._work = {n.removeprefix(PREFIX): v for n, v in totals.items() if n.startswith(PREFIX)}
        name = getattr(getattr(pl_module, "objective", None), "denominator", _WEIGHT)
        self._counted = {name: totals[name]} if name in totals and name != _WEIGHT else {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PackedBatch, batch_idx: int
    ) -> None:
        """Adds a step if one has ended, and logs at the trainer's interval."""
        if trainer.global_step == self._global_step:
            return
        self._global_step = trainer.global_step
        seconds = time.perf_counter() - self._begun - self._paused
        waited = self._clock.seconds - self._waited if self._clock else 0.0
        self._steps.append(Step(seconds, waited, self._work, self._counted))
        self._begin()
        if self._every and trainer.global_step % self._every == 0:
            peak = self._peak and self._peak * trainer.world_size
            values = summary(self._steps, self._factors, peak)
            if self._clock is None:
                del values["data_wait"]
            pl_module.log_dict({f"perf/{n}": v for n, v in values.items()}, batch_size=1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pauses the clock of the step."""
        self._pause = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resumes the clock of the step."""
        self._paused += time.perf_counter() - self._pause

    def _begin(self) -> None:
        self._begun, self._paused = time.perf_counter(), 0.0
        self._waited = self._clock.seconds if self._clock else 0.0


def summary(steps: Sequence[Step], factors: dict[str, float], peak: float | None) -> dict[str, float]:
    """Computes means over steps, by name.

    Args:
        steps: At least one step.
        factors: Cost of a step in forward passes, by slot.
        peak: Peak operations per second of all devices together. None: unknown.
    """
    seconds = sum(step.seconds for step in steps)
    sums = _sums(step.work for step in steps)
    rates: dict[str, float] = {n: sums[n] for n in ("tokens", "tiles", "targets") if n in sums}
    if not rates.get("targets"):  # packs without labels
        rates.pop("targets", None)
        rates = _sums(step.counted for step in steps) | rates
    values = {f"{name}_per_second": value / seconds for name, value in rates.items()}
    flops = {
        n: v * factors.get(n.removeprefix("flops/"), 3) / len(steps) for n, v in sums.items() if n.startswith("flops/")
    }
    values |= {name: value for name, value in flops.items() if value}
    if peak:
        values["mfu"] = sum(flops.values()) * len(steps) / seconds / peak
    values["data_wait"] = sum(step.waited for step in steps) / seconds
    return values


def _sums(counts: Iterable[dict[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for each in counts:
        for name, value in each.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def compute_dtype(trainer: Trainer) -> torch.dtype:
    """Returns the data type of the trainer's matrix products."""
    strategy = trainer.strategy
    if isinstance(strategy, FSDP2Strategy) and strategy.policy.param_dtype is not None:
        return strategy.policy.param_dtype
    precision = str(trainer.precision)
    if precision.startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if precision.startswith("16") else torch.float32

"""Lines of a run's progress for an output that is no terminal, such as a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from mmcomponents.plain_text import plain_line


class StepLines(Callback):
    """Prints step, loss and learning rate every `log_every_n_steps` steps and after the last one, and validations."""

    def __init__(self) -> None:
        self._begin = self._rate = 0.0
        self._first = self._printed = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._begin, self._first = time.monotonic(), trainer.global_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Notes the learning rate of the step, which is that of the next one when the step has ended."""
        self._rate = max(group["lr"] for group in optimizer.param_groups)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints a line at the end of an optimizer step."""
        step, every = trainer.global_step, max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if not trainer.fit_loop._should_accumulate() and step % every == 0:
            self._print_step(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints a line of the last step, whatever ends the run."""
        if trainer.global_step > max(self._printed, self._first):
            self._print_step(trainer)

    def _print_step(self, trainer: Trainer) -> None:
        step = self._printed = trainer.global_step
        seconds = (time.monotonic() - self._begin) / max(1, step - self._first)
        shown = {**_shown(trainer, "train/", "benchmark/"), "lr": f"{self._rate:.3g}", "s/step": f"{seconds:.3g}"}
        _print(trainer, shown)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the values of a validation."""
        if not trainer.sanity_checking:
            _print(trainer, _shown(trainer, "val/", "benchmark/"))


def _shown(trainer: Trainer, *prefixes: str) -> dict[str, str]:
    """Returns the values that a progress bar would show."""
    found = trainer.progress_bar_metrics.items()
    return {name: f"{float(value):.4g}" for name, value in found if name.startswith(prefixes)}


def _print(trainer: Trainer, values: dict[str, str]) -> None:
    if not trainer.is_global_zero or not values:
        return
    steps = f"/{trainer.max_steps}" if trainer.max_steps > 0 else ""
    text = "  ".join(f"{name} {value}" for name, value in values.items())
    sys.stdout.write(plain_line(f"step {trainer.global_step}{steps}  {text}") + "\n")
    sys.stdout.flush()

"""Learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Linear warm-up, then half a cosine down to a share of the peak; a step is one optimizer step.

    A checkpoint holds how far the schedule has come, and nothing else: peak and length are the recipe's, also when a
    run is resumed with others.

    Args:
        optimizer: The optimizer; each of its groups keeps its own peak.
        total_steps: Steps of the whole run, warm-up included; None or -1 (Lightning's "no limit"): those that the
            trainer expects, which the task fills in.
        warmup_steps: Steps until the peak; None: `warmup_ratio` of the total.
        warmup_ratio: Share of the total until the peak (InternVL: 0.03).
        final_ratio: Share of the peak that is left at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        warmup_steps: int | None = None,
        warmup_ratio: float = 0.03,
        final_ratio: float = 0.0,
    ) -> None:
        if total_steps is not None and total_steps != -1 and total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}")
        self.total_steps = None if total_steps == -1 else total_steps
        self.fixed_warmup = warmup_steps
        self.warmup_ratio = warmup_ratio
        self.final_ratio = final_ratio
        super().__init__(optimizer, self.factor)

    @property
    def warmup_steps(self) -> int:
        """Steps until the peak."""
        return (
            math.ceil((self.total_steps or 0) * self.warmup_ratio) if self.fixed_warmup is None else self.fixed_warmup
        )

    def factor(self, step: int) -> float:
        """Share of the peak at an optimizer step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.total_steps is None:
            return 1.0
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return self.final_ratio + (1.0 - self.final_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))

    def fill_in(self, total_steps: float) -> None:
        """Takes the length that the trainer expects, where the recipe gives none.

        Raises:
            ValueError: The trainer has no end.
        """
        if self.total_steps is not None:
            return
        if math.isinf(total_steps):
            raise ValueError("the schedule has no length: set trainer.max_steps or trainer.max_epochs, or total_steps")
        self.total_steps = int(total_steps)
        self.apply()

    def apply(self) -> None:
        """Sets the rates of the step that is next, from the recipe's peaks and length."""
        for group, peak in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = peak * self.factor(self.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """How far the schedule has come."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = self.last_epoch + 1


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What the recipe says of each parameter group: rate, decay and so on, without the parameters."""
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def restore_settings(optimizer: Optimizer, settings: list[dict[str, Any]], schedule: Any | None) -> None:
    """Puts the recipe's settings back after a checkpoint was loaded: it brings its own, and does not override.

    Args:
        optimizer: With the moments, and the settings, of the checkpoint.
        settings: Of the recipe, from `group_settings`.
        schedule: Where the schedule is not ours, its rates are scaled by the change of the peak.
    """
    if len(settings) != len(optimizer.param_groups):
        raise ValueError(
            f"the checkpoint has {len(optimizer.param_groups)} parameter groups and the recipe {len(settings)}: "
            "other slots are trained"
        )
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        peak = own.get("initial_lr", own["lr"])
        old = group.get("initial_lr", group["lr"])
        now = group["lr"] * (peak / old if old else 1.0)
        group.update(own)
        group["lr"] = now
    if isinstance(schedule, WarmupCosine):
        schedule.base_lrs = [own.get("initial_lr", own["lr"]) for own in settings]
        schedule.apply()

"""Learning rate schedules and parameter group settings."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

log = logging.getLogger(__name__)


class WarmupCosine(LambdaLR):
    """Linear warmup followed by cosine decay to a fraction of the peak learning rate, per optimizer step.

    A checkpoint stores only the current step: peak and length come from the recipe, also when a resumed run changes
    them.

    Args:
        optimizer: The optimizer; each parameter group keeps its own peak.
        total_steps: Number of steps of the complete run, including warmup. None or -1 (Lightning's "no limit"): the
            number that the trainer expects, which the task fills in.
        warmup_steps: Number of steps until the peak. None: `warmup_ratio` of the total.
        warmup_ratio: Fraction of the total until the peak (InternVL: 0.03).
        final_ratio: Fraction of the peak at the end.
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
        if warmup_steps is not None and warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {warmup_steps}")
        for name, ratio in (("warmup_ratio", warmup_ratio), ("final_ratio", final_ratio)):
            if not 0 <= ratio <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {ratio}")
        self.total_steps = None if total_steps == -1 else total_steps
        self.fixed_warmup = warmup_steps
        self.warmup_ratio = warmup_ratio
        self.final_ratio = final_ratio
        super().__init__(optimizer, self.factor)

    @property
    def warmup_steps(self) -> int:
        """Number of steps until the peak."""
        return (
            math.ceil((self.total_steps or 0) * self.warmup_ratio) if self.fixed_warmup is None else self.fixed_warmup
        )

    def factor(self, step: int) -> float:
        """Returns the fraction of the peak at an optimizer step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.total_steps is None:
            return 1.0
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return self.final_ratio + (1.0 - self.final_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))

    def fill_in(self, total_steps: float) -> None:
        """Sets the length to the number of steps that the trainer expects if the recipe gives none.

        Raises:
            ValueError: The trainer has no limit.
        """
        if self.total_steps is not None:
            return
        if math.isinf(total_steps):
            raise ValueError("the schedule has no length: set trainer.max_steps or trainer.max_epochs, or total_steps")
        self.total_steps = int(total_steps)
        self.apply()

    def check_length(self, step: int, steps: float) -> None:
        """Checks that the schedule is as long as the run.

        Args:
            step: Steps taken so far.
            steps: Steps of the complete run.

        Raises:
            MisconfigurationException: The schedule has ended at a learning rate of 0.
        """
        end = self.total_steps
        if end is None or end >= steps or self.final_ratio > 0:
            return
        if step >= end:
            raise MisconfigurationException(
                f"the schedule ends at step {end} (total_steps) and the run goes on from step {step}: with a learning"
                " rate of 0 nothing would be trained. Set total_steps to the length of the complete run"
            )
        log.warning("the schedule ends at step %d: the learning rate is 0 from there to step %.0f", end, steps)

    def apply(self) -> None:
        """Sets the learning rates of the next step from the recipe's peaks and length."""
        for group, peak in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = peak * self.factor(self.last_epoch)

    def go_to(self, step: int) -> None:
        """Sets step and learning rates to those after a number of optimizer steps."""
        self.last_epoch, self._step_count = step, step + 1
        self.apply()

    def state_dict(self) -> dict[str, Any]:
        """Returns the current step."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the current step."""
        self.go_to(state_dict["last_epoch"])


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Returns the settings of each parameter group (learning rate, weight decay, …) without the parameters."""
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def described(schedule: object) -> str:
    """Returns class and settings of a schedule that has not begun, without the peaks, as a text to be compared."""
    state = schedule.state_dict() if isinstance(schedule, LRScheduler) else {}
    kept = {key: value for key, value in state.items() if key not in ("base_lrs", "_last_lr")}
    return f"{type(schedule).__module__}.{type(schedule).__qualname__} {sorted(kept.items())!r}"


@dataclass(frozen=True)
class StoredSchedule:
    """Schedule of a checkpoint.

    Attributes:
        state: Its state; None if there was no schedule.
        described: What `described` returned for it; None in a checkpoint of an earlier version.
    """

    state: dict[str, Any] | None
    described: str | None

    def of(self, schedule: Any | None, own: str) -> dict[str, Any] | None:
        """Returns the state if it is that of a schedule with the same class and settings, else None, with a warning.

        Args:
            schedule: The recipe's schedule, if there is one.
            own: What `described` returned for it.
        """
        if self.described is not None:
            same = self.described == own
        else:
            same = schedule is not None and {*(self.state or ())} == {*schedule.state_dict()}
        if not same and not isinstance(schedule, WarmupCosine):
            log.warning("the checkpoint was trained with another schedule: learning rates are the recipe's")
        return self.state if same else None


def resume_schedule(
    optimizer: Optimizer, settings: list[dict[str, Any]], schedule: Any | None, state: dict[str, Any] | None, steps: int
) -> None:
    """Sets the recipe's settings after loading a checkpoint, whose settings have replaced them, and its learning rates.

    A schedule is stepped to where the checkpoint is, so that rates, and momenta that it changes, are those of a run
    that had it from the start.

    Args:
        optimizer: Optimizer with the moments and the settings of the checkpoint.
        settings: Settings of the recipe, from `group_settings`.
        schedule: The recipe's schedule; None: learning rates are constant.
        state: State of the same schedule in the checkpoint; None: its schedule was another one. Only that of
            `ReduceLROnPlateau`, whose steps depend on a metric, is loaded, and its rates are those of the checkpoint.
        steps: Number of optimizer steps before the checkpoint.

    Raises:
        ValueError: The numbers of parameter groups differ.
        MisconfigurationException: The schedule does not have so many steps.
    """
    groups = optimizer.param_groups
    if len(settings) != len(groups):
        raise ValueError(
            f"the checkpoint has {len(groups)} parameter groups and the recipe {len(settings)}: other slots are trained"
        )
    reached = [group["lr"] for group in groups]
    for group, own in zip(groups, settings, strict=True):
        group.update(own)
    if isinstance(schedule, WarmupCosine):
        schedule.go_to(steps)
    elif isinstance(schedule, LRScheduler) and not isinstance(schedule, ReduceLROnPlateau):
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler\.step")
                for _ in range(steps):
                    schedule.step()
        except ValueError as error:
            raise MisconfigurationException(
                f"{type(schedule).__name__} cannot go on from step {steps}: {error}"
            ) from error
    elif schedule is not None and state is not None:
        schedule.load_state_dict(state)
        for group, lr in zip(groups, reached, strict=True):
            group["lr"] = lr

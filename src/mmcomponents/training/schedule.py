"""Learning-rate schedules."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Linear warm-up, then half a cosine down to a share of the peak; a step is one optimizer step.

    Args:
        optimizer: The optimizer; each of its groups keeps its own peak.
        total_steps: Steps of the whole run, warm-up included.
        warmup_steps: Steps until the peak; None: `warmup_ratio` of the total.
        warmup_ratio: Share of the total until the peak (InternVL: 0.03).
        final_ratio: Share of the peak that is left at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: int | None = None,
        warmup_ratio: float = 0.03,
        final_ratio: float = 0.0,
    ) -> None:
        if total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}")
        self.total_steps = total_steps
        self.warmup_steps = math.ceil(total_steps * warmup_ratio) if warmup_steps is None else warmup_steps
        self.final_ratio = final_ratio
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """Share of the peak at an optimizer step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return self.final_ratio + (1.0 - self.final_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))

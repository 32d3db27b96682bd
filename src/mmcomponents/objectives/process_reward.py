"""Process reward: verdicts on the steps of a solution."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mmcomponents.batch import LossOutput, ModelState, PackedBatch, Steps
from mmcomponents.component import WiringError
from mmcomponents.objectives.base import Model, Objective


class VerdictHead(Protocol):
    """What a loss over verdicts needs of a head; see `mmcomponents.heads.Verbalizer`."""

    def verdict_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the positive and the negative word, `[n, d]` to fp32 `[n, 2]`."""
        ...


class ProcessReward(Objective):
    """Cross-entropy of the two verdicts on each step (VisualPRM, arXiv 2503.10291, section 3.2).

    All steps of a pack are judged in one forward pass: a step is scored at the position that predicts its verdict, and
    the verdicts before it read as positive, as they do when a critic scores. The loss is the mean over all steps of
    the optimizer step. An outcome reward is the same with one step for each solution.

    Args:
        head: Name of the head with the two words.

    Attributes:
        scores: P(positive) of each step of the pack that was seen last, `[n]` without gradient, for metrics.
    """

    denominator = "steps"
    validated = MappingProxyType({"accuracy": "steps"})

    def __init__(self, head: str = "lm") -> None:
        super().__init__()
        self.head = head
        self.needs_heads = (head,)
        self.scores: Tensor | None = None

    def prepare(self, model: Model, build: Callable[[], Model]) -> None:
        """Makes sure that the head has verdicts.

        Raises:
            WiringError: It has none.
        """
        self._judge(model.heads)

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Number of steps, each of which is a target.

        Raises:
            WiringError: The pack says nothing of steps.
        """
        steps = float(_steps(batch).score_at.shape[0])
        return {"steps": steps, "targets": steps}

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Loss of the pack, as its share of the step; zero where it has no steps.

        Raises:
            WiringError: The pack says nothing of steps, or the head has no verdicts.
        """
        steps = _steps(batch)

        def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
            assert state.hidden is not None
            return self._judge(heads).verdict_logits(state.hidden[steps.score_at])

        logits: Tensor = model(batch, read=read)
        # Of two classes the cross-entropy is a matter of the difference alone.
        margin, truth = logits[:, 0] - logits[:, 1], steps.label.to(logits.dtype)
        every = max(totals["steps"], 1.0)
        total = binary_cross_entropy_with_logits(margin, truth, reduction="sum") / every
        self.scores = torch.sigmoid(margin.detach())
        right = ((margin.detach() > 0) == (truth > 0.5)).sum()
        parts = {"loss": total.detach(), "accuracy": right / every, "positives": truth.sum() / every}
        return LossOutput(total, parts)

    def _judge(self, heads: nn.ModuleDict) -> VerdictHead:
        head = heads[self.head]
        if not hasattr(head, "verdict_logits"):
            raise WiringError(
                f"ProcessReward reads verdicts, which the head {self.head!r} ({type(head).__name__}) has not:"
                " take Verbalizer, whose weight is that of LMHead"
            )
        return cast(VerdictHead, head)


def _steps(batch: PackedBatch) -> Steps:
    if batch.steps is None:
        raise WiringError(
            "ProcessReward needs the steps of a critic's chats, and the packs have none: data.verdicts is not set"
            ' (data.verdicts: ["+", "-"])'
        )
    return batch.steps

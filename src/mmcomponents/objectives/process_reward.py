"""Process reward, trained with verdicts on the steps of a solution."""

from __future__ import annotations

from types import MappingProxyType
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mmcomponents.batch import LossOutput, ModelState, PackedBatch, Steps
from mmcomponents.component import Composition, WiringError
from mmcomponents.objectives.base import Model, Objective, check_head


class VerdictHead(Protocol):
    """Interface of heads for losses over verdicts; see `mmcomponents.heads.Verbalizer`."""

    def verdict_logits(self, hidden: Tensor) -> Tensor:
        """Computes the logits of the positive and the negative token, `[n, d]` to fp32 `[n, 2]`."""
        ...


class ProcessReward(Objective):
    """Cross-entropy of the two verdicts on each step (VisualPRM, arXiv 2503.10291, section 3.2).

    All steps of a pack are scored in one forward pass: a step is scored at the position that predicts its verdict, and
    the verdicts before it are positive tokens, as when a critic scores. The loss is the mean over all steps of the
    optimizer step. An outcome reward is the same with one step per solution.

    Args:
        head: Name of the head with the two tokens.

    Attributes:
        scores: P(positive) of each step of the last pack, `[n]` without gradient, for metrics.
    """

    denominator = "steps"
    validated = MappingProxyType({"accuracy": "steps"})

    def __init__(self, head: str = "lm") -> None:
        super().__init__()
        self.head = head
        self.needs_heads = (head,)
        self.scores: Tensor | None = None

    def check(self, model: Composition) -> None:
        """Checks that the head computes verdicts.

        Raises:
            WiringError: It does not, or there is no backbone.
        """
        self._verdict_head(model.heads)
        check_head(self, model, self.head, "verdict_logits", "Verbalizer")

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Counts the steps, each of which is a target.

        Raises:
            WiringError: The pack has no `steps`.
        """
        steps = float(_steps(batch).score_at.shape[0])
        return {"steps": steps, "targets": steps}

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Computes the share of the pack in the loss of the step; zero if `steps` is empty.

        Raises:
            WiringError: The pack has no `steps`, or the head does not compute verdicts.
        """
        steps = _steps(batch)

        def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
            assert state.hidden is not None
            return self._verdict_head(heads).verdict_logits(state.hidden[steps.score_at])

        logits: Tensor = model(batch, read=read)
        # The cross-entropy of two classes depends only on the difference of their logits.
        margin, truth = logits[:, 0] - logits[:, 1], steps.label.to(logits.dtype)
        count = max(totals["steps"], 1.0)
        total = binary_cross_entropy_with_logits(margin, truth, reduction="sum") / count
        self.scores = torch.sigmoid(margin.detach())
        correct = ((margin.detach() > 0) == (truth > 0.5)).sum()
        parts = {"loss": total.detach(), "accuracy": correct / count, "positives": truth.sum() / count}
        return LossOutput(total, parts)

    def _verdict_head(self, heads: nn.ModuleDict) -> VerdictHead:
        head = heads[self.head]
        if not hasattr(head, "verdict_logits"):
            raise WiringError(
                f"ProcessReward needs verdicts, which the head {self.head!r} ({type(head).__name__}) does not compute:"
                " use Verbalizer, whose weight is that of LMHead"
            )
        return cast(VerdictHead, head)


def _steps(batch: PackedBatch) -> Steps:
    if batch.steps is None:
        raise WiringError(
            "ProcessReward needs the steps of a critic's chats, and the packs have none: data.verdicts is not set"
            ' (data.verdicts: ["+", "-"])'
        )
    return batch.steps

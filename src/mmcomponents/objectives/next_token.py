"""Next-token prediction."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from mmcomponents.batch import IGNORE, LossOutput, ModelState, PackedBatch
from mmcomponents.objectives.base import LanguageHead, Model, Objective
from mmcomponents.objectives.weights import Weighting, token_weights


class NextToken(Objective):
    """Weighted cross-entropy of the next token (InternVL3, section 2.2, equations 1 to 4).

    The loss of a step is the sum of weighted losses over all its packs, divided by the sum of their weights: one
    denominator over ranks and accumulated micro-batches. Only positions with a target go through the head.

    Args:
        weighting: "token", "sample" or "square"; a segment is the unit.
        head: Name of the language-model head.
    """

    def __init__(self, weighting: Weighting = "square", head: str = "lm") -> None:
        super().__init__()
        self.weighting: Weighting = weighting
        self.head = head
        self.needs_heads = (head,)

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Sum of the weights, and the number of targets."""
        weights = token_weights(batch.labels, batch.layout.cu_seqlens, self.weighting)
        return {"weight": float(weights.double().sum()), "targets": float((batch.labels != IGNORE).sum())}

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Loss of the pack, as its share of the step; zero where there is no target."""
        weights = token_weights(batch.labels, batch.layout.cu_seqlens, self.weighting)
        weights = weights / max(totals["weight"], 1e-12)

        def read(heads: nn.ModuleDict, state: ModelState) -> tuple[Tensor, Tensor]:
            assert state.hidden is not None
            return cast(LanguageHead, heads[self.head]).weighted_nll(state.hidden, batch.labels, weights)

        total, nll = model(batch, read=read)
        return LossOutput(total, {"loss": total.detach(), "nll": nll.sum() / max(totals["targets"], 1.0)})

"""Next-token prediction."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from mmcomponents.batch import IGNORE, LossOutput, ModelState, PackedBatch
from mmcomponents.component import WiringError
from mmcomponents.objectives.base import LanguageHead, Model, Objective
from mmcomponents.objectives.weights import Weighting, token_weights


class NextToken(Objective):
    """Weighted cross-entropy of the next token (InternVL3, section 2.2, equations 1 to 4).

    The loss of a step is the sum of weighted losses over all its packs, divided by the sum of their weights: one
    denominator over ranks and accumulated micro-batches. Only positions with a target go through the head.

    Args:
        weighting: "token", "sample" or "square"; a segment is the unit.
        head: Name of the language-model head.
        sources: Number of sources whose likelihoods are told apart, `nll/0` and so on; the same on all ranks. The task
            puts the data's own number here where it is 0.
    """

    def __init__(self, weighting: Weighting = "square", head: str = "lm", sources: int = 0) -> None:
        super().__init__()
        self.weighting: Weighting = weighting
        self.head = head
        self.sources = sources
        self.needs_heads = (head,)

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Sum of the weights, and the number of targets, of all sources and of each.

        Raises:
            WiringError: The pack holds preference pairs, whose rejected answers are not to be learnt.
        """
        if batch.pairs is not None:
            rejected = batch.pairs.rejected.tolist()
            raise WiringError(
                f"{type(self).__name__} would learn the rejected answers of {len(rejected)} preference pairs too"
                f" (such as {batch.keys[rejected[0]]}): leave their source out (data.sources.NAME.repeat 0),"
                " or take an objective of preferences"
            )
        weights = token_weights(batch.labels, batch.layout.cu_seqlens, self.weighting)
        targets = (batch.labels != IGNORE).float()
        by_source = {f"targets/{s}": float(n) for s, n in enumerate(self._by_source(batch, targets))}
        return {"weight": float(weights.double().sum()), "targets": float(targets.double().sum()), **by_source}

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Loss of the pack, as its share of the step; zero where there is no target."""
        weights = token_weights(batch.labels, batch.layout.cu_seqlens, self.weighting)
        weights = weights / max(totals["weight"], 1e-12)

        def read(heads: nn.ModuleDict, state: ModelState) -> tuple[Tensor, Tensor]:
            assert state.hidden is not None
            return cast(LanguageHead, heads[self.head]).weighted_nll(state.hidden, batch.labels, weights)

        total, nll = model(batch, read=read)
        parts = {"loss": total.detach(), "nll": nll.sum() / max(totals["targets"], 1.0)}
        for source, value in enumerate(self._by_source(batch, nll)):
            parts[f"nll/{source}"] = value / max(totals[f"targets/{source}"], 1.0)
        return LossOutput(total, parts)

    def _by_source(self, batch: PackedBatch, values: Tensor) -> list[Tensor]:
        """Sums of `[T]` values over the positions of each source; other sources than those counted have no sum."""
        if self.sources == 0:
            return []
        source = batch.segment_source[batch.layout.segment_of_token()]
        other = (source < 0) | (source >= self.sources)
        sums = values.new_zeros(self.sources + 1).index_add_(0, source.masked_fill(other, self.sources), values)
        return list(sums[:-1])

"""Next-token prediction.

Source: InternVL3 (arXiv 2504.10479, section 2.2). Reference code: OpenGVLab/InternVL.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from mmcomponents.batch import IGNORE, LossOutput, ModelState, PackedBatch
from mmcomponents.component import Composition, WiringError
from mmcomponents.limits import check_choices, check_numbers
from mmcomponents.objectives.base import LanguageHead, Model, Objective, check_head
from mmcomponents.objectives.weighting import Weighting, token_weights


class NextToken(Objective):
    """Weighted cross-entropy of the next token (InternVL3, section 2.2, equations 1 to 4).

    The loss of a step is the sum of weighted losses over all its packs, divided by the sum of their weights: one
    denominator over ranks and accumulated micro-batches. Only positions with a target go through the head.

    Args:
        weighting: "token", "sample" or "square"; a segment is the unit.
        head: Name of the language-model head.
        sources: Number of sources with a likelihood of their own, `nll/0` and so on; the same on all ranks. If it is 0,
            the task sets it to the number of sources of the data.
    """

    def __init__(self, weighting: Weighting = "square", head: str = "lm", sources: int = 0) -> None:
        super().__init__()
        check_choices(weighting=(weighting, Weighting))
        check_numbers(sources=sources)
        self.weighting: Weighting = weighting
        self.head = head
        self.sources = sources
        self.needs_heads = (head,)

    def check(self, model: Composition) -> None:
        """Checks that the head computes likelihoods.

        Raises:
            WiringError: It does not, or there is no backbone.
        """
        check_head(self, model, self.head, "weighted_nll", "LMHead")

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Computes the sum of the weights and the number of targets, in total and per source.

        Raises:
            WiringError: The pack contains preference pairs, whose rejected answers must not be trained on.
        """
        if batch.pairs is not None:
            rejected = batch.pairs.rejected.tolist()
            raise WiringError(
                f"{type(self).__name__} would also train on the rejected answers of {len(rejected)} preference pairs"
                f" (such as {batch.keys[rejected[0]]}): exclude their source (data.sources.NAME.repeat 0),"
                " or use a preference objective"
            )
        weights = token_weights(batch.labels, batch.layout.cu_seqlens, self.weighting)
        targets = (batch.labels != IGNORE).float()
        by_source = {f"targets/{s}": float(n) for s, n in enumerate(self._by_source(batch, targets))}
        return {"weight": float(weights.double().sum()), "targets": float(targets.double().sum()), **by_source}

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Computes the share of the pack in the loss of the step; zero without targets."""
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
        """Sums `[T]` values over the positions of each of the `sources`; other positions are ignored."""
        if self.sources == 0:
            return []
        source = batch.segment_source[batch.layout.segment_of_token()]
        other = (source < 0) | (source >= self.sources)
        sums = values.new_zeros(self.sources + 1).index_add_(0, source.masked_fill(other, self.sources), values)
        return list(sums[:-1])

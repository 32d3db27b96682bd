from __future__ import annotations

import torch

from mmcomponents.objectives import NextToken
from mmcomponents.projectors import LinearProjector
from mmcomponents.testing import Ranks
from testing.contracts.broken import failure


class OwnDenominator(NextToken):
    """Divides by the counts of this rank's window, as if the sums over ranks were missing."""

    def forward(self, model, batch, totals):
        if torch.distributed.is_initialized():
            totals = {**totals, "weight": totals["weight"] / torch.distributed.get_world_size()}
        return super().forward(model, batch, totals)


class RunningMean(LinearProjector):
    """Updates a buffer from the tiles of this rank."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.register_buffer("mean", torch.zeros(in_features), persistent=False)

    def init_buffer(self, name, value) -> bool:
        value.zero_()
        return True

    def forward(self, features, embedding_weight=None):
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * features.primary.tokens.detach().mean((0, 1))
        return super().forward(features)


def test_an_objective_with_twice_the_loss_on_two_ranks(two_ranks: Ranks) -> None:
    said = failure("two_ranks_equal_one", "objective", OwnDenominator, ranks=two_ranks)
    assert "rank 0: losses by step differs by" in said


class RankOne(LinearProjector):
    """Doubles what the second rank gives."""

    def forward(self, features, embedding_weight=None):
        ranked = torch.distributed.is_initialized() and torch.distributed.get_rank() == 1
        return super().forward(features) * (2 if ranked else 1)


def test_a_part_that_differs_on_the_second_rank(two_ranks: Ranks) -> None:
    assert "losses by step differs by" in failure("two_ranks_equal_one", "projector", RankOne, ranks=two_ranks)


def test_a_buffer_that_each_rank_updates_alone(two_ranks: Ranks) -> None:
    said = failure("two_ranks_equal_one", "projector", RunningMean, ranks=two_ranks)
    assert "final weights: projector.mean differs by" in said

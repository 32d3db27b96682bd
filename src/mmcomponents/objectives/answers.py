"""Log-probabilities of the answers of preference pairs."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mmcomponents.batch import IGNORE, ModelState, PackedBatch, Pairs
from mmcomponents.objectives.base import LanguageHead, Model


def pairs_of(batch: PackedBatch) -> Pairs:
    """The pairs of a pack, none where it has none."""
    none = batch.segment_sample[:0]
    return batch.pairs or Pairs(none, none)


def answer_logps(model: Model, batch: PackedBatch, head: str = "lm") -> Tensor:
    """Log-probability of each answer: the sum over its targets, in one forward pass for all.

    Every rank has to call it, also with a pack without pairs: sharded weights are gathered on the way.

    Args:
        model: Model whose opinion is asked.
        batch: A pack; segments that belong to no pair do not go through the head.
        head: Name of the language-model head.

    Returns:
        fp64 `[P, 2]`, chosen and rejected: a sum of thousands of words keeps its digits.
    """
    pairs, segment = pairs_of(batch), batch.layout.segment_of_token()
    asked = torch.zeros(batch.num_segments, dtype=torch.bool, device=segment.device)
    asked[pairs.chosen] = asked[pairs.rejected] = True
    labels = batch.labels.masked_fill(~asked[segment], IGNORE)

    def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
        assert state.hidden is not None
        return cast(LanguageHead, heads[head]).nll(state.hidden, labels)

    nll: Tensor = model(batch, read=read)
    sums = torch.zeros(batch.num_segments, dtype=torch.float64, device=nll.device).index_add(0, segment, nll.double())
    return -torch.stack((sums[pairs.chosen], sums[pairs.rejected]), dim=1)


def target_counts(batch: PackedBatch) -> Tensor:
    """Number of targets of each answer, int64 `[P, 2]`."""
    pairs, segment = pairs_of(batch), batch.layout.segment_of_token()
    counts = torch.bincount(segment[batch.labels != IGNORE], minlength=batch.num_segments)
    return torch.stack((counts[pairs.chosen], counts[pairs.rejected]), dim=1)

"""Log-probabilities of the answers of preference pairs."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mmcomponents.batch import IGNORE, ModelState, PackedBatch, Pairs
from mmcomponents.objectives.base import LanguageHead, Model


def pairs_of(batch: PackedBatch) -> Pairs:
    """Returns the pairs of a pack, empty if it has none."""
    empty = batch.segment_sample[:0]
    return batch.pairs or Pairs(empty, empty)


def answer_logps(model: Model, batch: PackedBatch, head: str = "lm") -> Tensor:
    """Computes the log-probability of each answer, summed over its targets, in one forward pass.

    All ranks have to call it, also with a pack without pairs, as sharded weights are gathered during the call.

    Args:
        model: Policy or reference.
        batch: The pack; segments outside the pairs do not go through the head.
        head: Name of the language-model head.

    Returns:
        fp64 `[P, 2]`, chosen and rejected; fp32 would be inaccurate for sums over thousands of tokens.
    """
    pairs, segment = pairs_of(batch), batch.layout.segment_of_token()
    paired = torch.zeros(batch.num_segments, dtype=torch.bool, device=segment.device)
    paired[pairs.chosen] = paired[pairs.rejected] = True
    labels = batch.labels.masked_fill(~paired[segment], IGNORE)

    def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
        assert state.hidden is not None
        return cast(LanguageHead, heads[head]).nll(state.hidden, labels)

    nll: Tensor = model(batch, read=read)
    sums = torch.zeros(batch.num_segments, dtype=torch.float64, device=nll.device).index_add(0, segment, nll.double())
    return -torch.stack((sums[pairs.chosen], sums[pairs.rejected]), dim=1)


def target_counts(batch: PackedBatch) -> Tensor:
    """Returns the number of targets of each answer, int64 `[P, 2]`."""
    pairs, segment = pairs_of(batch), batch.layout.segment_of_token()
    counts = torch.bincount(segment[batch.labels != IGNORE], minlength=batch.num_segments)
    return torch.stack((counts[pairs.chosen], counts[pairs.rejected]), dim=1)

"""Packs of preference pairs for the tiny model."""

from __future__ import annotations

from dataclasses import replace

import torch

import tiny
from mmcomponents.batch import Exact, PackedBatch
from mmcomponents.objectives import Reference
from mmcomponents.objectives.answers import answer_logps
from mmcomponents.testing.packs import join
from mmcomponents.testing.sample_packs import blank_pack as no_pair
from mmcomponents.testing.sample_packs import pair_pack as pair

__all__ = ["join", "no_pair", "pair"]


def with_reference(batch: PackedBatch, seed: int = 5) -> PackedBatch:
    """Returns the pack with stored log-probabilities of another tiny model, so that rewards are not zero."""
    if batch.pairs is None:
        return batch
    with torch.no_grad():
        stored = answer_logps(tiny.model(seed), batch).float()
    return replace(batch, pairs=replace(batch.pairs, reference_logps=Exact(stored)))


class Other(Reference):
    """Reference with other weights than the policy, without preparation."""

    def __init__(self, seed: int = 5) -> None:
        self.model = tiny.model(seed)

    @torch.no_grad()
    def logps(self, model: object, batch: PackedBatch, head: str) -> torch.Tensor:
        return answer_logps(self.model, batch, head)

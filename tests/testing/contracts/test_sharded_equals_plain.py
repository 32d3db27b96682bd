from __future__ import annotations

import torch
from torch import nn

from mmcomponents.projectors import LinearProjector
from mmcomponents.testing import Ranks, check_component
from testing.contracts.broken import failure


class LostBuffer(LinearProjector):
    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.register_buffer("scale", torch.full((out_features,), 3.0), persistent=False)

    def forward(self, features, embedding_weight=None):
        return super().forward(features) * self.scale


class FilledBuffer(LostBuffer):
    def init_buffer(self, name, value) -> bool:
        value.fill_(3.0)
        return True


class GlobalDraws(LinearProjector):
    def init_parameter(self, name, value, generator) -> None:
        nn.init.normal_(value)


def test_a_buffer_that_the_meta_device_does_not_keep(two_ranks: Ranks) -> None:
    said = failure("sharded_equals_plain", "projector", LostBuffer, ranks=two_ranks)
    assert "WiringError: LostBuffer has the buffer scale, whose values the meta device does not keep" in said
    assert check_component("projector", FilledBuffer, only=["sharded_equals_plain"], ranks=two_ranks)


class Unfilled(LostBuffer):
    def init_buffer(self, name, value) -> bool:
        return True


class MetaDevice(LinearProjector):
    """Has a number that depends on the device on which it is built."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.scale = 1.0 if self.linear.weight.is_meta else 2.0

    def forward(self, features, embedding_weight=None):
        return super().forward(features) * self.scale


def test_what_is_lost_on_the_meta_device(two_ranks: Ranks) -> None:
    said = failure("sharded_equals_plain", "projector", Unfilled, ranks=two_ranks)
    assert "drawn after the meta device: projector.scale differs by inf" in said
    said = failure("sharded_equals_plain", "projector", MetaDevice, ranks=two_ranks)
    assert said.startswith("output of lm of a model from the meta device differs by")


def test_weights_that_depend_on_the_rank(two_ranks: Ranks) -> None:
    said = failure("sharded_equals_plain", "projector", GlobalDraws, ranks=two_ranks)
    assert "drawn on two ranks (rank 0): projector.linear.weight differs by" in said

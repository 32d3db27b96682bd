from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

import tiny
from mmcomponents.backbones import DecoderLM
from mmcomponents.nn.mlp import SwiGLU
from testing.contracts.broken import failure


class Counting(SwiGLU):
    """Depends on how often it was called."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x * (1.0 + 1e-3 * self.calls))


class Counts(DecoderLM):
    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        for layer in self.layers:
            layer.mlp.__class__ = Counting


def test_a_unit_that_computes_something_else_again() -> None:
    said = failure("checkpointing_changes_nothing", "backbone", partial(Counts, **tiny.backbone_factory().keywords))
    assert "gradients with selective checkpointing: vision.class_embedding differs by" in said

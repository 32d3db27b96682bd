from __future__ import annotations

from torch import nn

import tiny
from contracts.tiny_parts import GatedFuser
from mmcomponents.testing import NeutralStart
from testing.contracts.broken import failure

ONE_MAP = {"vision": tiny.vision_factory()}
TWO_MAPS = {"vision": tiny.vision_factory(levels=(1, 2))}


class HalfOpen(GatedFuser):
    def init_parameter(self, name, value, generator) -> None:
        super().init_parameter(name, value, generator)
        if name == "gate":
            value.fill_(1e-4)


def test_a_gate_that_is_not_closed() -> None:
    neutral = NeutralStart(None, lambda part: nn.init.ones_(part.gate), neighbours=ONE_MAP)
    said = failure("neutral_start", "fuser", HalfOpen, neighbours=TWO_MAPS, neutral=neutral)
    assert "output of lm differs by" in said
    assert "(allowed 0)" in said


def test_a_gate_that_opens_nothing() -> None:
    neutral = NeutralStart(None, lambda part: None, neighbours=ONE_MAP)
    said = failure("neutral_start", "fuser", GatedFuser, neighbours=TWO_MAPS, neutral=neutral)
    assert said == "output of lm with and without the opened part differ by 0 only, at least 0.001 is expected"

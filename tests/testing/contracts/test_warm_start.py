from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import tiny
from contracts.tiny_parts import GatedFuser
from mmcomponents.checkpoints import initial
from mmcomponents.checkpoints.initial import load_initial
from mmcomponents.model import MultimodalModel
from mmcomponents.projectors import LinearProjector
from mmcomponents.testing import NeutralStart
from mmcomponents.testing.contracts import warm_start
from testing.contracts.broken import failure

TWO_MAPS = {"vision": tiny.vision_factory(levels=(1, 2))}
NEUTRAL = NeutralStart(None, lambda part: nn.init.ones_(part.gate), neighbours={"vision": tiny.vision_factory()})


def test_weights_of_another_part_that_are_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = initial._fitting
    monkeypatch.setattr(initial, "_fitting", lambda *args: [n for n in plain(*args) if n != "backbone"])
    said = failure("warm_start", "fuser", GatedFuser, neighbours=TWO_MAPS, neutral=NEUTRAL)
    assert "backbone.layers.0" in said


def test_a_start_that_is_not_neutral() -> None:
    class Open(GatedFuser):
        def init_parameter(self, name: str, value: Any, generator: Any) -> None:
            super().init_parameter(name, value, generator)
            if name == "gate":
                value.fill_(0.5)

    said = failure("warm_start", "fuser", Open, neighbours=TWO_MAPS, neutral=NEUTRAL)
    assert "of the neutral part" in said


class Plain(LinearProjector):
    """Subclass of another base than the default part."""


def test_a_part_that_takes_weights_of_another_class(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(model: MultimodalModel, *args: Any, **options: Any) -> None:
        load_initial(model, *args, **options)
        model.projector.linear.bias.fill_(3.0)

    monkeypatch.setattr(warm_start, "load_initial", load)
    said = failure("warm_start", "projector", Plain)
    assert said == "the folder has no part of this class, and changed linear.bias"

"""Roll-outs after a test; `tests/test_policy_run.py` runs them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmcomponents.component import WiringError
from mmcomponents.demos.tabletop import TabletopEnvironment
from mmcomponents.generation import Autoregressive
from mmcomponents.training.control import RolloutReport


def test_a_sampler_of_texts_is_refused_before_the_test() -> None:
    module = SimpleNamespace(sampler=Autoregressive())
    with pytest.raises(WiringError, match="needs a sampler of actions, and this one is Autoregressive"):
        RolloutReport(TabletopEnvironment).on_test_start(None, module)  # type: ignore[arg-type]


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="starts must be from 1"):
        RolloutReport(TabletopEnvironment, starts=0)

"""Success rates and what makes a policy; `tests/test_policy_run.py` runs episodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmcomponents.component import WiringError
from mmcomponents.demos.tabletop import TabletopEnvironment
from mmcomponents.evaluation.rollouts import Rollouts, check_policy, write_report
from mmcomponents.generation import Autoregressive


def test_a_report_has_the_rate_and_its_interval(tmp_path: Path) -> None:
    report = write_report(tmp_path, [{"success": True}, {"success": True}, {"success": False}])
    assert report == json.loads((tmp_path / "rollouts.json").read_text())
    assert report["success"] == pytest.approx(2 / 3)
    assert report["low"] == pytest.approx(0.2077, abs=1e-4)  # Wilson's interval of 2 of 3
    assert report["high"] == pytest.approx(0.9385, abs=1e-4)


@pytest.mark.parametrize(("sampler", "found"), [(Autoregressive(), "this one is Autoregressive"), (None, "is none")])
def test_a_sampler_of_texts_is_no_policy(sampler: Autoregressive | None, found: str) -> None:
    with pytest.raises(WiringError, match=f"--metric x needs a sampler of actions, and .*{found}"):
        check_policy(sampler, "--metric x")


@pytest.mark.parametrize("name", ["starts", "executed", "frames"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be from 1"):
        Rollouts(TabletopEnvironment, **{name: 0})  # type: ignore[arg-type]

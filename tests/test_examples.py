"""The examples run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import tiny
from mmcomponents.component import Component

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_own_projector_fits_into_a_model() -> None:
    part: Component = example("own_projector").GatedProjector(4 * tiny.VISION, tiny.WIDTH)
    model = tiny.model(projector=part)
    assert model(tiny.pack([("t", 2), ("i", 1)])).hidden.shape == (6, tiny.WIDTH)


def test_plain_loop_runs(capsys: pytest.CaptureFixture[str]) -> None:
    share = example("plain_loop").main(steps=3)
    assert 0 <= share <= 1
    assert "of 100 right" in capsys.readouterr().out


@pytest.mark.slow
def test_plain_loop_learns() -> None:
    assert example("plain_loop").main() >= 0.9

"""The benchmark of MMFuser and PIIP on real handwriting runs, goes on where it ended, and compares its arms."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "encoders_on_digits.py"
PUBLISHED = SCRIPT.parent / "results" / "encoders_on_digits.json"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("encoders_on_digits", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["encoders_on_digits"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_twenty_steps_of_each_arm(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "BATCH", 4)
    monkeypatch.setattr(script, "TEST", 8)
    out = tmp_path / "results.json"
    arguments = ["--seeds", "0", "--steps", "20", "--out", str(out)]
    assert script.main(arguments) == 0
    results = json.loads(out.read_text())
    arms = [key.split("/")[1] for key in results]
    assert arms == ["last level", "MMFuser", "inverted", "direct", "single"]
    assert {len(found["right"]) for found in results.values()} == {8}
    inverted, *others = (found["flops"] for key, found in results.items() if key.startswith("digits/"))
    assert all(inverted <= cost < 1.3 * inverted for cost in others)
    first = capsys.readouterr().out
    assert "strokes: MMFuser" in first
    assert "McNemar's exact p" in first
    monkeypatch.setattr(script, "train", None)  # nothing is trained again
    assert script.main(arguments) == 0
    assert capsys.readouterr().out == first


def test_the_images_of_a_seed_are_the_same_for_all_arms_and_test_scans_are_others(script: Any) -> None:
    images = script.Images(28, (20, 26), 0.05, 0.1, 0)
    one, right = images.batch(script.READ, 3, test=True, size=4)
    two, again = images.batch(script.READ, 3, test=True, size=4)
    assert torch.equal(one.images.pixels, two.images.pixels)
    assert torch.equal(right, again)
    assert not {*images.train} & {*images.test}
    assert torch.equal(one.labels[one.labels >= 0], right)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="no results")
def test_published_results_have_three_seeds_of_each_arm() -> None:
    keys = [key.split("/") for key in json.loads(PUBLISHED.read_text())]
    for name in {key[0] for key in keys}:
        seeds = {arm: {k[2] for k in keys if k[:2] == [name, arm]} for arm in {k[1] for k in keys if k[0] == name}}
        assert all(found == {"0", "1", "2"} for found in seeds.values()), (name, seeds)

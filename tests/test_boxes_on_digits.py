"""The benchmark of MI-DETR on cluttered digits runs with each encoder, goes on where it ended, and compares arms."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("pycocotools", reason="needs mmcomponents[detection]")
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "boxes_on_digits.py"
PUBLISHED = SCRIPT.parent / "results" / "boxes_on_digits.json"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("boxes_on_digits", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["boxes_on_digits"] = module
    spec.loader.exec_module(module)
    return module


def test_twenty_steps_of_each_arm(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "BATCH", 1)
    monkeypatch.setattr(script, "TEST", 2)
    out = tmp_path / "results.json"
    arguments = ["--seeds", "0", "--steps", "20", "--out", str(out)]
    assert script.main(arguments) == 0
    results = json.loads(out.read_text())
    assert list(results) == ["resnet/inquiries/0/20", "resnet/plain/0/20"]
    many, one = results.values()
    assert many["parameters"] > one["parameters"]
    assert all(0 <= found["ap"] <= found["ap50"] <= 1 for found in results.values())
    first = capsys.readouterr().out
    assert "ap_small: inquiries" in first
    monkeypatch.setattr(script, "train", None)  # nothing is trained again
    assert script.main(arguments) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("encoder", ["intern_vit", "piip"])
def test_other_encoders(script: Any, encoder: str) -> None:
    model = script.composed(0, "inquiries", encoder).train()
    batch, drawn = script.Scenes(0).batch(range(2))
    objective = script.SetCriterion(denoising=4)
    objective(model, batch, objective.counts(batch)).total.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert float(batch.extras["boxes"].label.numel()) == sum(len(scene.digits) for scene in drawn)


def test_both_arms_see_the_same_scenes_and_test_scans_are_others(script: Any) -> None:
    scenes = script.Scenes(0)
    (one, _), (two, _) = (made.batch(range(3, 5)) for made in (scenes, script.Scenes(0)))
    assert torch.equal(one.images.pixels, two.images.pixels)
    assert not {*scenes.train} & {*scenes.test}


@pytest.mark.skipif(not PUBLISHED.exists(), reason="no results")
def test_published_results_are_of_known_arms_and_seeds() -> None:
    keys = [key.split("/") for key in json.loads(PUBLISHED.read_text())]
    assert all(key[1] in ("inquiries", "plain") and key[2].isdigit() for key in keys)

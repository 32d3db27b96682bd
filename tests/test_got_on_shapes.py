"""The benchmark of GoT on shapes runs, and goes on where it ended."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmcomponents.data.media.reasoned_boxes import parse_reasoning
from mmcomponents.demos.shapes import draw_scene, make_scene
from mmcomponents.generation import Answer

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "got_on_shapes.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("got_on_shapes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["got_on_shapes"] = module
    spec.loader.exec_module(module)
    return module


def test_twenty_steps(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "BATCH", 2)
    monkeypatch.setattr(script, "GUIDANCE", ((1.0, 1.0),))
    monkeypatch.setattr(script, "NEW_TOKENS", 12)
    out = tmp_path / "results.json"
    arguments = ["--seeds", "0", "--steps", "20", "--test", "3", "--out", str(out), "--work", str(tmp_path)]
    assert script.main(arguments) == 0
    (found,) = json.loads(out.read_text()).values()
    assert found["n"] == 3
    assert 0 <= found["all things in their boxes"][0] <= 1
    assert 0 <= found["p"] <= 1
    first = capsys.readouterr().out
    monkeypatch.setattr(script, "train", None)  # nothing is trained again
    assert script.main(arguments) == 0
    assert capsys.readouterr().out == first


def test_measures_of_pictures(script: Any) -> None:
    scenes = [make_scene(np.random.default_rng(number)) for number in range(20)]
    for number, scene in enumerate(scenes):
        right = Answer(picture=draw_scene(scene), reasoning=scene.reasoning)
        assert script.placed(scene, right)
        assert script.in_cells(scene, right)
        assert script.boxes_are_named(scene, right)
        empty = Answer(picture=Image.new("RGB", right.picture.size, scene.ground), reasoning=scene.reasoning)
        assert not script.placed(scene, empty)
        assert not script.in_cells(scene, empty)
        changed = script.moved(scene, scene.reasoning, number)
        assert len(parse_reasoning(changed).boxes) == len(scene.things)
        assert not script.placed(scene, Answer(picture=right.picture, reasoning=changed))
        assert script.change_outside(right, Answer(picture=right.picture, reasoning=changed)) == 0


def test_the_published_results_are_those_of_the_page() -> None:
    published = SCRIPT.parent / "results" / "got_on_shapes.json"
    page = (SCRIPT.parents[1] / "docs" / "systems" / "got.md").read_text()
    for key, row in json.loads(published.read_text()).items():
        line = next(text for text in page.splitlines() if text.startswith(f"| {key.replace('/', ' | ')} |"))
        for name in ("all things in their boxes", "a thing in its box", "all things in the cells that are named"):
            assert f"{100 * row[name][0]:.1f} %" in line

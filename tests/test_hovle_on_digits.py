"""The benchmark of HoVLE's distillation on real handwriting runs, and goes on where it ended."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "hovle_on_digits.py"
PUBLISHED = SCRIPT.parent / "results" / "hovle_on_digits.json"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        spec = importlib.util.spec_from_file_location("hovle_on_digits", SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "hovle_on_digits", module)
        spec.loader.exec_module(module)
        patch.setattr(sys.modules["encoders_on_digits"], "BATCH", 4)
        patch.setattr(sys.modules["encoders_on_digits"], "TEST", 8)
        for name, value in {"IMAGES": 2, "TEXTS": 3, "LENGTH": 8, "VOCAB": 96}.items():
            patch.setattr(module, name, value)
        patch.setattr(module, "TEACHER_STEPS", 4)
        yield module


def test_twenty_steps_of_each_form(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    arguments = ["--seeds", "0", "--steps", "20", "--aligned", "4", "--out", str(out)]
    assert script.main(arguments) == 0
    results = json.loads(out.read_text())
    assert list(results) == ["pre/0/20+4", "post/0/20+4"]
    for found in results.values():
        assert [len(found[arm]) for arm in ("before", "distilled", "new")] == [8] * 3
        assert found["image"]["candidates"] == 32
        assert 48 < found["text"]["candidates"] <= 95  # 96 draws of 95 tokens
        assert found["text"]["found"] > 0.05  # 20 steps are seen: chance is 0.016
    first = capsys.readouterr().out
    assert "pre: distilled" in first
    assert "McNemar's exact p" in first
    monkeypatch.setattr(script, "run", None)  # nothing is trained again
    assert script.main(arguments) == 0
    assert capsys.readouterr().out == first


def test_images_and_texts_do_not_belong_together(script: Any) -> None:
    images = script.Images(28, (20, 26), 0.0, 0.0, 0)
    one, two = script.unpaired(images, 0), script.unpaired(images, 0, test=True)
    visual = one.visual_index >= 0
    segment = one.layout.segment_of_token()
    assert not {*segment[visual].tolist()} & {*segment[~visual].tolist()}
    assert script.IMAGE_TOKEN not in one.input_ids[~visual]
    assert not torch.equal(one.input_ids, two.input_ids)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="no results")
def test_published_results_have_three_seeds_of_each_form() -> None:
    keys = [key.split("/") for key in json.loads(PUBLISHED.read_text())]
    assert {(form, seed) for form, seed, _ in keys} == {(form, seed) for form in ("pre", "post") for seed in "012"}

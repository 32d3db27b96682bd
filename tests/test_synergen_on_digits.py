"""The benchmark of SynerGen-VL on digits runs, and goes on where it ended."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "synergen_on_digits.py"
PUBLISHED = SCRIPT.parent / "results" / "synergen_on_digits.json"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("synergen_on_digits", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["synergen_on_digits"] = module
    spec.loader.exec_module(module)
    return module


def test_twenty_steps(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "MADE", 2)
    monkeypatch.setattr(script, "READ", 1)
    monkeypatch.setattr(script, "BATCH", 2)
    monkeypatch.setattr(script, "GUIDANCE", (1.0, 2.0))
    out = tmp_path / "results.json"
    arguments = ["--seeds", "0", "--steps", "20", "--test", "4", "--out", str(out), "--work", str(tmp_path)]
    assert script.main(arguments) == 0
    (found,) = json.loads(out.read_text()).values()
    assert found["n"] == 4
    assert all(0 <= found[f"guidance {s}"]["read"] <= 1 for s in ("1", "2"))
    assert found["chosen"] in (1.0, 2.0)
    assert 0 <= found["understanding"]["p"] <= 1
    first = capsys.readouterr().out
    monkeypatch.setattr(script, "train", None)  # nothing is trained again
    assert script.main(arguments) == 0
    assert capsys.readouterr().out == first
    out.unlink()
    picture = tmp_path / "sheet.png"
    assert script.main([*arguments, "--pictures", str(picture)]) == 0
    assert capsys.readouterr().out == first
    assert picture.exists()


def test_measures_of_pictures(script: Any) -> None:
    ink = torch.zeros(4, 2, 2)
    ink[1, 0, 0] = 3.0
    assert script.spread(ink, torch.tensor([5, 5, 6, 6])) == pytest.approx(1.5)
    assert script.nearest(ink, ink[1:2]).tolist() == [3.0, 0.0, 3.0, 3.0]
    pictures = torch.ones(1, 3, 32, 32)
    pictures[:, :, 8:24, 16:] = -1.0
    assert script.boxes(pictures)[0].mean((1, 2)).tolist() == [0.0, 1.0]


def test_training_and_test_have_other_scans_and_pairs(script: Any) -> None:
    data = script.DigitPictures(0)
    assert not {*data.allowed[0].tolist()} & {*data.allowed[1].tolist()}
    seen = {data.training(number)[0] for number in range(300)}
    assert not seen & {*data.unseen}
    assert len(data.unseen) == 20


def test_the_published_results_are_those_of_the_page() -> None:
    page = (SCRIPT.parents[1] / "docs" / "systems" / "synergen.md").read_text()
    found = json.loads(PUBLISHED.read_text())["0/1500"]
    for guidance in ("1", "1.5", "2", "3", "7.5"):
        row = found[f"guidance {guidance}"]
        line = next(
            text for text in page.splitlines() if text.replace("*", "").startswith(f"| made, guidance {guidance} |")
        )
        for value in (f"{row['read']:.1%}", f"{row['read of seen pairs']:.1%}", f"{row['spread']:.2f}"):
            assert value.replace("%", " %") in line
    chosen = found[f"guidance {found['chosen']:g}"]
    assert chosen["read"] >= 0.8
    assert chosen["spread"] >= 0.7 * found["real"]["spread"]

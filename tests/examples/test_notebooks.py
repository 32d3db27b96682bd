"""The notebooks in examples/notebooks are executed cell by cell, with few steps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

NOTEBOOKS = Path(__file__).parents[2] / "examples" / "notebooks"
FEW = {"STEPS": 4, "SCENES": 60}
"""Numbers in the place of those of the notebooks."""


def executed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Returns the names that the cells of a notebook define."""
    monkeypatch.chdir(folder)
    matplotlib.use("Agg")
    scope: dict[str, Any] = {"__name__": name}
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    numbers = re.findall(r"^(STEPS|STEPS, SCENES) = ", "\n".join(code), flags=re.MULTILINE)
    assert len(numbers) == 1
    with torch.random.fork_rng(devices=[]):
        for number, cell in enumerate(code):
            few = ", ".join(str(FEW[each]) for each in numbers[0].split(", "))
            cell = re.sub(rf"^{numbers[0]} = .*$", f"{numbers[0]} = {few}", cell, flags=re.MULTILINE)
            exec(compile(cell, f"{name}.ipynb, cell {number}", "exec"), scope)
    matplotlib.pyplot.close("all")
    return scope


def test_a_swapped_part_changes_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = executed("swap_a_part", tmp_path, monkeypatch)
    assert found["equal"]
    assert found["text_gap"] == 0 < found["image_gap"]
    assert {name: len(losses) for name, losses in found["losses"].items()} == {"MLP": 4, "linear": 4}
    assert found["last"] == {"V2PE": 5.0, "RoPE": 16.0}


def test_the_first_minutes_of_the_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = executed("quickstart", tmp_path, monkeypatch)
    assert len(found["answers"]) == 40 * 5
    assert {"question", "answer", "prediction", "is_right"} <= found["answers"][0].keys()
    assert (tmp_path / "runs/notebook/checkpoints/last.ckpt").exists()
    assert type(found["model"].projector).__name__ == "MLPProjector"


def test_notebooks_have_no_outputs() -> None:
    for file in NOTEBOOKS.glob("*.ipynb"):
        cells = json.loads(file.read_text())["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), file.name

"""The distances that examples/third_party/measure.py prints."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "examples/third_party/measure.py"


def test_the_last_places_are_compared_with_the_squares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("measure", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    measure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measure)
    (tmp_path / "actions").mkdir()
    rows = []
    for line, (target, answer) in enumerate([([0.5, 0.0], [0.25, 0.125]), ([0.0, -1.0], [0.0, -0.5])], start=1):
        np.save(tmp_path / "actions" / f"test-{line - 1:06d}.npy", np.array([[9.0, 9.0], target]))
        rows.append(json.dumps({"key": f"test-000000/{line:09d}", "answer": [[7.0, 7.0], answer]}) + "\n")
    (tmp_path / "predictions.jsonl").write_text("".join(rows))
    measure.main([str(tmp_path / "predictions.jsonl"), str(tmp_path)])
    assert capsys.readouterr().out == "2 answers: 0.38 away, the centre 0.75\n"

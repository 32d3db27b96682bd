"""The benchmark of Dita: twenty steps of each arm."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from test_policy_run import language_model


@pytest.fixture(scope="module")
def script() -> Any:
    path = Path(__file__).parents[1] / "benchmarks" / "dita_on_tabletop.py"
    spec = importlib.util.spec_from_file_location("dita_on_tabletop", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.EPISODES, module.BATCH, module.SHOTS = 4, 8, 1
    return module


def test_twenty_steps_of_each_arm(script: Any, tmp_path: Path, capsys: Any) -> None:
    out, lm = tmp_path / "results.json", str(language_model(tmp_path / "lm"))
    given = ["--seeds", "0", "--steps", "20", "--starts", "3", "--shifted", "--out", str(out), "--text_model", lm]
    assert script.main(given) == 0
    results = json.loads(out.read_text())
    keys = {f"{arm}/0/signal/20" for arm in script.ARMS[:3]} | {
        "regression/0/actions/20",
        "in_context/0/signal/20/shifted",
    }
    assert results.keys() == keys
    assert all(len(results[key]["won"]) == 3 for key in keys - {"in_context/0/signal/20/shifted"})
    said = capsys.readouterr().out
    assert said.count("McNemar's exact p") == 3
    before = out.read_text()
    script.train = None  # nothing is left to be trained
    assert script.main(given) == 0
    assert out.read_text() == before


def test_arms_see_the_same_windows(script: Any) -> None:
    windows = script.windows_of(0)
    assert windows is script.windows_of(0)
    assert windows.pictures.shape[1:] == (48, 48, 3)
    assert windows.actions.shape[1:] == (8, 2)
    assert windows.masks.any(1).all()

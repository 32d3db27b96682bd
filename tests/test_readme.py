"""The README's Python code runs, and names the verbs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pages import README, blocks


def test_the_python_blocks_run_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {"__name__": "readme"}
    with torch.random.fork_rng(devices=[]):
        for block in blocks(README, "python"):
            exec(compile(block, "README.md", "exec"), scope)
    assert capsys.readouterr().out == "(8, 8) torch.Size([3, 64, 64])\n"
    assert scope["logits"].shape == (19, 512)
    assert torch.isfinite(scope["logits"]).all()


def test_a_dozen_lines_compose_a_model() -> None:
    composed = next(block for block in blocks(README, "python") if "MultimodalModel(" in block)
    statement = composed[composed.index("model =") : composed.index("logits =")].strip()
    assert len(statement.splitlines()) <= 12


@pytest.mark.parametrize("verb", ["fit", "ablate", "data", "generate", "components", "plan"])
def test_the_verbs_exist(verb: str) -> None:
    from mmcomponents.cli.main import VERBS

    assert f"mmcomponents {verb}" in README.read_text()
    assert verb in VERBS

"""The README's Python runs as it stands, its recipe loads, and its flags are known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_blocks_run_in_order(capsys) -> None:
    scope: dict[str, object] = {"__name__": "readme"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), scope)
    assert capsys.readouterr().out == "(8, 8) torch.Size([3, 64, 64])\n"
    assert torch.isfinite(scope["loss"])
    assert len(scope["answer"]) == 1
    assert len(scope["answer"][0]) <= 8
    # The part that the README brings works in the composite.
    projector = scope["GatedProjector"](256, 96)
    model, batch = scope["model"], scope["batch"]
    model.projector = projector
    assert torch.isfinite(model(batch).hidden).all()


def test_a_dozen_lines_compose_a_model() -> None:
    composed = next(b for b in blocks("python") if "MultimodalModel(" in b)
    statements = composed[composed.index("model =") :].strip().splitlines()
    assert len(statements) <= 12


@pytest.mark.parametrize("verb", ["fit", "test", "data", "generate", "components"])
def test_the_verbs_are_there(verb) -> None:
    from mmcomponents.cli.main import VERBS

    assert f"mmcomponents {verb}" in README
    assert verb in VERBS

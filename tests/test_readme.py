"""The README's Python code runs, its recipe loads, and its flags are known."""

from __future__ import annotations

import re
import shlex
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
    assert len(scope["answer"].ids) <= 8
    # The part that the README defines works in the model.
    projector = scope["GatedProjector"](256, 96)
    model, batch = scope["model"], scope["batch"]
    model.projector = projector
    assert torch.isfinite(model(batch).hidden).all()


def test_a_dozen_lines_compose_a_model() -> None:
    composed = next(b for b in blocks("python") if "MultimodalModel(" in b)
    statements = composed[composed.index("model =") :].strip().splitlines()
    assert len(statements) <= 12


@pytest.mark.parametrize("verb", ["fit", "test", "data", "generate", "components"])
def test_the_verbs_exist(verb) -> None:
    from mmcomponents.cli.main import VERBS

    assert f"mmcomponents {verb}" in README
    assert verb in VERBS


def commands() -> list[str]:
    """Returns the README's commands that need files or a model, which are missing here; continued lines are joined."""
    lines = re.findall(r"^    mmcomponents ((?:.*\\\n)*.*)$", README, flags=re.MULTILINE)
    kinds = [f"data {kind}" for kind in ("convert", "inspect", "preferences", "steps")]
    verbs = ("evaluate", "generate", "import", "export", *kinds)
    return [line.replace("\\\n", " ") for line in lines if line.startswith(verbs)]


@pytest.mark.parametrize("line", commands())
def test_a_command_fails_only_for_missing_files(line, tmp_path, monkeypatch, capsys) -> None:
    from mmcomponents.cli.main import main

    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)) == 2
    error = capsys.readouterr().err
    assert re.search(
        r"there is no |no checkpoint folder |no such file|cannot be read|no shard|does not exist|not found",
        error,
        re.IGNORECASE,
    ), error
    assert not re.search(r"no option|is missing|are required|belongs to no option", error), error

"""What a run starts from, without training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny
from mmcomponents.cli.main import main
from mmcomponents.cli.runs.dry_run import logit_difference, start_table
from mmcomponents.demos.handwriting.builder import make_handwriting


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder, with data of the quickstart and `m`, a model with its weights."""
    where = tmp_path_factory.mktemp("dry")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        make_handwriting("data/handwriting", scenes=60, held_out=4, val_scenes=4)
        fit = ["fit", "--config", "quickstart", "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"]
        assert main([*fit, "--trainer.default_root_dir", "r"]) == 0
        run = ["--config", "r/recipe.yaml", "--ckpt_path", "r/checkpoints/last.ckpt"]
        assert main(["export", *run, "--format", "mmcomponents", "--out", "m"]) == 0
    return where


def shown(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    monkeypatch.chdir(folder)
    before = {*Path().iterdir()}
    assert main(["fit", *flags, "--dry_run"]) == 0
    assert {*Path().iterdir()} == before
    return capsys.readouterr().out


def test_a_part_with_a_neutral_start_changes_no_logits(folder: Path, monkeypatch, capsys) -> None:
    text = shown(folder, monkeypatch, capsys, "--config", "mmfuser/tiny", "--model.weights", "m")
    assert "bit for bit equal to those of m" in text
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.count("│") > 4}
    assert "56,640 │       0 │ 56,640" in rows["fuser"]
    assert "66,560 │  66,560 │      0 │ m" in rows["projector"]
    assert "tied" in rows["heads.lm"]


def test_another_part_is_drawn_and_moves_the_logits(folder: Path, monkeypatch, capsys) -> None:
    flags = ["--config", "quickstart", "--model.weights", "m", "--model.projector", "LinearProjector"]
    text = shown(folder, monkeypatch, capsys, *flags)
    assert "49,280 │       0 │ 49,280" in text
    assert "logits of a random sequence are at most" in text


def test_without_a_folder_all_weights_are_drawn(folder: Path, monkeypatch, capsys) -> None:
    assert "all weights are drawn" in shown(folder, monkeypatch, capsys, "--config", "quickstart")
    several = "{vision: m, backbone: m/../m}"
    text = shown(folder, monkeypatch, capsys, "--config", "quickstart", "--model.weights", several)
    assert "the weights are of several folders" in text


def test_a_missing_folder_is_one_line(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    assert main(["fit", "--config", "quickstart", "--model.weights", "./none", "--dry-run"]) == 2
    assert "no checkpoint folder none" in capsys.readouterr().err


def test_the_difference_is_that_of_the_logits() -> None:
    model, other = tiny.model(), tiny.model()
    other.load_state_dict(model.state_dict())
    assert logit_difference(model, other)[0] == 0
    with torch.no_grad():
        other.heads["lm"].weight += 0.01
    assert logit_difference(model, other)[0] > 0
    assert start_table(model, None).row_count == len(model.parts())

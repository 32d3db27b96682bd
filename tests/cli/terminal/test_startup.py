"""Tables that `fit` prints at start-up, and the callbacks that it adds."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelSummary, RichModelSummary
from recipe_standins import Data, Task
from rich.console import Console

import tiny
from contracts.pair import Sized, make_task
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.terminal.startup import StartupTable, data_table, default_callbacks, slot_table
from mmcomponents.cli.terminal.step_lines import StepLines
from mmcomponents.cli.trainer import run_verb
from mmcomponents.cli.user_error import UserError
from mmcomponents.component import NonFiniteError
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.packing.mixture import GroupShare
from mmcomponents.data.packing.source_options import SourceOptions
from mmcomponents.demos.handwriting.builder import make_handwriting
from mmcomponents.heads import LMHead
from mmcomponents.testing import Ranks
from mmcomponents.training import GradientNorms, GradientWatch, NoGradientError, NonFiniteGuard, RankMonitor


def rows(text: str) -> dict[str, list[str]]:
    """Returns the cells of each printed row, keyed by the first cell."""
    lines = [[cell.strip() for cell in line.strip()[1:-1].split("│")] for line in text.splitlines() if "│" in line]
    return {cells[0]: cells[1:] for cells in lines}


def shown(model: Any) -> dict[str, list[str]]:
    console = Console(file=io.StringIO(), width=100)
    console.print(slot_table(model))
    return rows(console.file.getvalue())


def test_slots_classes_counts_and_types() -> None:
    model = tiny.model()
    model.vision.requires_grad_(False)
    model.backbone.to(torch.bfloat16)
    found = shown(model)
    assert list(found) == [*model.parts(), "total"]
    vision = sum(p.numel() for p in model.vision.parameters())
    every = sum(p.numel() for p in model.parameters())
    assert found["vision"] == ["InternViT", f"{vision:,}", "0", "float32"]
    assert found["merger"] == ["PixelUnshuffle", "0", "0", ""]
    assert found["backbone"][-1] == "bfloat16"
    assert found["heads.lm"] == ["LMHead", "2,048", "2,048", "float32"]
    assert found["total"] == ["", f"{every:,}", f"{every - vision:,}", "bfloat16, float32"]


def test_a_tied_weight_is_counted_once() -> None:
    model = tiny.model(heads={"lm": LMHead(tiny.WIDTH, tiny.VOCAB, tied=True)})
    found = shown(model)
    assert found["heads.lm"] == ["LMHead", "2,048 shared", "with embedder", "float32"]
    assert found["total"][1] == f"{sum(p.numel() for p in model.parameters()):,}"


def printed(**settings: Any) -> str:
    console = Console(file=io.StringIO(), width=100)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StartupTable(console)],
        **settings,
    )
    task = make_task(heads={"lm": partial(LMHead, tied=True)})
    packs = [tiny.pack([("i", 1), ("t", 6)])]
    packs[0].totals = {"weight": 2.0, "targets": 6.0}
    trainer.fit(task, Sized(packs))
    return console.file.getvalue()


def as_rank(rank: int) -> str:
    return printed(strategy="fsdp2", devices=2)


def test_counts_are_of_unsharded_weights_and_only_rank_zero_prints(two_ranks: Ranks) -> None:
    first, second = two_ranks.run(as_rank)
    assert second == ""
    assert rows(first) == rows(printed())


def test_the_summary_setting_of_a_recipe_takes_precedence() -> None:
    def kinds(given: list[Any], summary: bool | None, lines: bool = False) -> list[type]:
        return [type(c) for c in default_callbacks(given, summary, lines)]

    checks = [RankMonitor, GradientWatch, NonFiniteGuard, GradientNorms]
    assert kinds([], None) == [StartupTable, *checks]
    assert kinds([RichModelSummary()], None) == kinds([ModelSummary()], None) == checks
    assert kinds([], True) == kinds([], False) == checks
    assert kinds([RankMonitor(), GradientWatch(0), NonFiniteGuard(2), GradientNorms()], None) == [StartupTable]
    assert kinds([], True, lines=True) == [StepLines, *checks]


RECIPE = """
trainer: {max_steps: 2, accelerator: cpu, devices: 1, logger: false, enable_checkpointing: false,
          enable_progress_bar: false, default_root_dir: runs/x}
model: {projector: recipe_standins.Wide}
"""


def kinds_of(write: Callable[[str, str], Path], verb: str, *flags: str) -> list[str]:
    write("r.yaml", RECIPE)
    cli = RecipeCLI(verb, sort_flags(["--config", "r.yaml", *flags]), Task, Data)
    names = [type(c).__name__ for c in cli.trainer.callbacks]
    return [
        n for n in names if n in ("StartupTable", "GradientWatch", "NonFiniteGuard", "ModelSummary", "RichModelSummary")
    ]


def test_only_fit_adds_callbacks(write: Callable[[str, str], Path]) -> None:
    assert kinds_of(write, "fit") == ["StartupTable", "GradientWatch", "NonFiniteGuard"]
    assert "StartupTable" not in kinds_of(write, "fit", "--trainer.enable_model_summary", "true")
    guard = ["--trainer.callbacks+", "mmcomponents.training.NonFiniteGuard"]
    skipping = kinds_of(write, "fit", *guard, "--trainer.callbacks.max_skipped_steps", "3")
    assert skipping == ["StartupTable", "GradientWatch", "NonFiniteGuard"]
    assert kinds_of(write, "test", "--trainer.enable_model_summary", "false") == []


def test_lines_stand_in_for_a_progress_bar_where_there_is_none(write: Callable[[str, str], Path]) -> None:
    """The output of a test is no terminal."""
    without = RECIPE.replace("enable_progress_bar: false, ", "")
    for text, flags, expected in (
        (RECIPE, [], (False, False)),
        (without, [], (True, False)),
        (without, ["--trainer.enable_progress_bar", "true"], (False, True)),
        (without, ["--trainer.callbacks+", "lightning.pytorch.callbacks.TQDMProgressBar"], (False, True)),
    ):
        write("r.yaml", text)
        trainer = RecipeCLI("fit", sort_flags(["--config", "r.yaml", *flags]), Task, Data).trainer
        lines = any(isinstance(callback, StepLines) for callback in trainer.callbacks)
        assert (lines, trainer.progress_bar_callback is not None) == expected, flags


def test_a_table_of_metrics_is_written_beside_tensorboard_by_default(write: Callable[[str, str], Path]) -> None:
    def loggers(text: str) -> list[str]:
        write("r.yaml", text)
        trainer = RecipeCLI("fit", sort_flags(["--config", "r.yaml"]), Task, Data).trainer
        assert len({logger.log_dir for logger in trainer.loggers}) < 2
        return [type(logger).__name__ for logger in trainer.loggers]

    both = ["TensorBoardLogger", "CSVLogger"]
    assert loggers(RECIPE.replace("logger: false, ", "")) == loggers(RECIPE.replace("false", "true", 1)) == both
    assert loggers(RECIPE) == []
    assert loggers(RECIPE.replace("false", "{class_path: CSVLogger, init_args: {save_dir: x}}", 1)) == ["CSVLogger"]


@pytest.mark.parametrize("error", [NoGradientError("projector (Wide) received\nno gradient"), NonFiniteError("a\nb")])
def test_what_the_checks_find_is_reported_in_one_line_on_rank_zero(
    write: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    write("r.yaml", RECIPE)
    cli = RecipeCLI("fit", sort_flags(["--config", "r.yaml"]), Task, Data)

    def stopped(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cli.trainer, "fit", stopped)
    with pytest.raises(UserError) as caught:
        run_verb(cli)
    assert str(caught.value) == str(error).replace("\n", " ")
    monkeypatch.setattr(type(cli.trainer), "is_global_zero", False)
    with pytest.raises(SystemExit):
        run_verb(cli)


def test_the_data_of_a_run_are_shown(tmp_path: Path) -> None:
    make_handwriting(str(tmp_path), scenes=20, held_out=4, val_scenes=4, vocab_size=400)
    data = PackedDataModule(
        str(tmp_path / "tokenizer"),
        4,
        str(tmp_path / "train-*.tar"),
        tile_size=28,
        sources={"handwriting": SourceOptions(repeat=2.5)},
    )
    data.setup("fit")
    assert data.mixture is not None
    console = Console(file=io.StringIO(), width=100)
    console.print(data_table(data.mixture))
    samples, passes, _, share = rows(console.file.getvalue())["handwriting"]
    assert (samples, passes, share) == ("20", "2.5", "100.0%")


def test_the_names_of_sources_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    class OneSource:
        def shares(self) -> list[GroupShare]:
            return [GroupShare("[red]a\x1b[2J\nb", 1, 1.0, 1.0)]

    console = Console(width=100)
    console.print(data_table(OneSource()))  # type: ignore[arg-type]
    assert "│ [red]a<U+001B>[2J b │" in capsys.readouterr().out

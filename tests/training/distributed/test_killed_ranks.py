"""A run on two ranks that is killed at random moments, saving included, goes on from its last whole checkpoint."""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from mmcomponents.checkpoints.runs import checkpoint_writer, verify
from mmcomponents.cli.main import main
from mmcomponents.cli.recipes import recipe_cli
from mmcomponents.demos.handwriting.builder import make_handwriting
from mmcomponents.testing import Ranks

EVERY = 2
"""Steps between checkpoints."""

KILLS = 10

WRITING = ("save", "checksums", "write_checksums", "replace", "remove")
"""Functions in the thread that writes a checkpoint; a rank is killed before or after one of them."""


class Losses(Callback):
    """Appends step and loss of rank zero to a file, and calls a function after some steps."""

    def __init__(self, path: Path | None, steps: int, call: Callable[[], None]) -> None:
        self.path, self.steps, self.call = path, steps, call

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *of: Any) -> None:
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(f"{trainer.global_step} {outputs['loss'].item().hex()}\n")
        self.steps -= 1
        if self.steps == 0:
            self.call()


def kill(run: Path) -> None:
    """Kills both ranks, or rank one alone."""
    for rank in (1,) if (run / "alone").exists() else (1, 0):
        os.kill(int((run / f"pid{rank}").read_text()), signal.SIGKILL)


def killing(run: Path, name: str, number: int, after: bool) -> Any:
    """Returns a function of the writer that kills its rank at a call of it."""
    real, calls = getattr(checkpoint_writer, name), [0]

    def called(*given: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == number and not after:
            kill(run)
        found = real(*given, **options)
        if calls[0] == number and after:
            kill(run)
        return found

    return called


def fit_as_rank(rank: int, data: Path, run: Path, steps: int, moment: tuple[Any, ...] | None) -> int:
    """Trains the quickstart, from `last.ckpt` if there is one, until a moment at which both ranks are killed."""
    last, callback, stack = run / "checkpoints" / "last.ckpt", {"steps": -1, "call": None}, ExitStack()
    told = logging.FileHandler(run / f"log{rank}", delay=True)
    logging.getLogger("mmcomponents").addHandler(told)
    stack.callback(logging.getLogger("mmcomponents").removeHandler, told)
    stack.enter_context(redirect_stderr(stack.enter_context((run / f"log{rank}").open("a", buffering=1))))
    (run / f"pid{rank}").write_text(str(os.getpid()))
    match moment:
        case ("training", after, seconds) if rank == 0:
            callback = {"steps": after, "call": threading.Timer(seconds, kill, [run]).start}
        case ("writing", name, number, after) if rank == 0:
            killed = killing(run, name, number, after)
            stack.enter_context(mock.patch.object(checkpoint_writer, name, killed))
    losses = Losses(run / "losses" if rank == 0 else None, **callback)  # type: ignore[arg-type]
    given = recipe_cli.default_callbacks
    stack.enter_context(mock.patch.object(recipe_cli, "default_callbacks", lambda *of: [losses, *given(*of)]))
    parts = [f"--data.{part}={data}/{part}-*.tar" for part in ("train", "val", "test")]
    flags = ["--data.pack_tokens=512", "--trainer.log_every_n_steps=1", "--trainer.val_check_interval=100"]
    flags += ["--trainer.enable_progress_bar=false", "--trainer.logger=false", f"--trainer.max_steps={steps}"]
    flags += [f"--model.scheduler.total_steps={steps}", "--trainer.strategy=fsdp2", "--trainer.devices=2"]
    saving = f"{{dirpath: {last.parent}, every_n_train_steps: {EVERY}, save_top_k: 2}}"
    flags += [f"--trainer.callbacks=[{{class_path: mmcomponents.training.FinalCheckpoint, init_args: {saving}}}]"]
    flags += [f"--data.tokenizer={data}/tokenizer", f"--trainer.default_root_dir={run}"]
    if any(last.parent.glob("last.ckpt*")):  # a kill during the renaming leaves it under another name
        flags.append(f"--ckpt_path={last}")
    with stack:
        return main(["fit", "--config", "quickstart", *parts, *flags])


def fit(ranks: Ranks, data: Path, run: Path, steps: int, moment: tuple[Any, ...] | None = None) -> None:
    run.mkdir(exist_ok=True)
    assert ranks.run(fit_as_rank, data, run, steps, moment) == [0, 0]


def losses(run: Path) -> dict[int, str]:
    """Returns the loss of each step; one that was trained again after a kill must have the same loss."""
    found: dict[int, str] = {}
    for line in (run / "losses").read_text().splitlines():
        step, loss = line.split()
        assert found.setdefault(int(step), loss) == loss, f"step {step} has another loss after a kill"
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_handwriting(str(tmp_path_factory.mktemp("hw")), scenes=200, held_out=4, val_scenes=4))


@pytest.mark.slow
def test_a_killed_run_has_the_losses_of_one_that_never_stopped(two_ranks: Ranks, data: Path, tmp_path: Path) -> None:
    whole, killed, draw, steps = tmp_path / "whole", tmp_path / "killed", random.Random(0), 8 + 4 * KILLS
    fit(two_ranks, data, whole, steps)
    assert sorted(losses(whole)) == list(range(1, steps + 1))
    names = {entry.name for entry in (whole / "checkpoints").iterdir()}
    assert names == {"last.ckpt", f"step={steps}.ckpt", f"step={steps - EVERY}.ckpt"}
    for number in range(KILLS):
        moment: tuple[Any, ...] = ("writing", draw.choice(WRITING), draw.randrange(1, 4), draw.random() < 0.5)
        if number % 2:
            moment = ("training", draw.randrange(1, 5), draw.random() * 0.3)
        with pytest.raises(RuntimeError, match="exit code -9"):
            fit(two_ranks, data, killed, steps, moment)
    fit(two_ranks, data, killed, steps)
    assert losses(killed) == losses(whole)
    assert {entry.name for entry in (killed / "checkpoints").iterdir()} == names
    for name in names:
        verify(killed / "checkpoints" / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [("writing", "save", 1, True), ("writing", "replace", 2, False), ("training", 3, 0.0), ("training", 2, 0.2)],
)
def test_a_rank_that_dies_ends_the_other(two_ranks: Ranks, data: Path, tmp_path: Path, moment: tuple[Any, ...]) -> None:
    (tmp_path / "alone").touch()
    with pytest.raises(RuntimeError, match="rank 1 ended with exit code -9") as found:
        two_ranks.run(fit_as_rank, data, tmp_path, 1000, moment)
    assert "gave no answer" not in str(found.value), "it ends at once"
    told = (tmp_path / "log0").read_text()
    (line,) = (line for line in told.splitlines() if "has died" in line)
    assert re.search(r"rank 1 \(process \d+ on .*\) has died: this run cannot go on; go on from its last", line)
    for path in (tmp_path / "checkpoints").glob("*.ckpt"):
        verify(path)

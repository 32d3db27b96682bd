"""Checkpoints in a single file: written whole, at the end of an optimizer step, and verified when they are read."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO

import tiny
from contracts.pair import Sized, make_task
from mmcomponents.checkpoints import CheckpointError
from mmcomponents.data.loading.lookahead import Lookahead
from mmcomponents.training import FinalCheckpoint
from mmcomponents.training.final_checkpoint import WholeCheckpointIO, use_whole_checkpoints

PACKS = [tiny.pack([("t", 4), ("i", 1), ("t", 8)], seed=n) for n in range(8)]


def fit(
    folder: Path,
    *callbacks: Callback,
    window: int = 1,
    ckpt: Path | None = None,
    every: int = 2,
    epochs: int = 1,
) -> Trainer:
    task = make_task()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        accumulate_grad_batches=window,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[FinalCheckpoint(str(folder), every), *callbacks],
        default_root_dir=folder,
    )
    trainer.fit(task, Lookahead(Sized(PACKS), window, task.counts), ckpt_path=ckpt)
    return trainer


@contextmanager
def small_files() -> Iterator[None]:
    """Lets no file of this process grow beyond 1 kB, as on a full disk: nothing may be printed meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Validations(Callback):
    """Records the loss of the validation by step."""

    def __init__(self) -> None:
        self.found: dict[int, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.found[trainer.global_step] = float(trainer.callback_metrics["val/loss"])


@pytest.mark.parametrize(("every", "validated", "expected"), [(2, 2, {2, 4, 6, 8}), (2, 3, {3, 6}), (3, 2, {4, 6})])
def test_a_checkpoint_is_ranked_by_its_own_validation(tmp_path, every: int, validated: int, expected: set[int]) -> None:
    task, seen, written = make_task(), Validations(), []

    class Written(FinalCheckpoint):
        def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
            written.append((trainer.global_step, Path(filepath).name))
            super()._save_checkpoint(trainer, filepath)

    saving = Written(str(tmp_path), every, monitor="val/loss", save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, val_check_interval=validated, logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[seen, saving], default_root_dir=tmp_path,
    )  # fmt: skip
    val = torch.utils.data.DataLoader(PACKS[:1], batch_size=None)
    trainer.fit(task, Lookahead(Sized(PACKS), 1, task.counts), val)
    ranked = {int(Path(path).stem.removeprefix("step=")): float(value) for path, value in saving.best_k_models.items()}
    assert ranked == {step: seen.found[step] for step in expected}
    last = [step for step, name in written if name == "last.ckpt"]
    assert {*last} >= {*range(every, 9, every)}  # `last.ckpt` does not wait for a validation


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "run" / "last.ckpt"
    path.parent.mkdir()
    path.write_text("old")
    told = rf"^the checkpoint last.ckpt cannot be written to {path.parent}: File too large$"
    with pytest.raises(CheckpointError, match=told), small_files():
        WholeCheckpointIO().save_checkpoint({"weight": torch.zeros(10_000)}, path)
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]


def test_the_file_is_written_beside_its_final_path(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "last.ckpt"
    path.write_text("old")
    seen: list[tuple[str, str]] = []
    real = torch.save

    def save(value: Any, file: Any) -> None:
        seen.append((Path(file.name).name, path.read_text()))
        real(value, file)

    monkeypatch.setattr(torch, "save", save)
    contents = {"pytorch-lightning_version": "2", "epoch": 0, "global_step": 3, "loops": {}}
    WholeCheckpointIO().save_checkpoint(contents, path)
    assert seen == [("last.ckpt.part", "old")]
    assert WholeCheckpointIO().load_checkpoint(path) == contents


def test_a_damaged_file_is_not_resumed_from(tmp_path: Path) -> None:
    fit(tmp_path)
    path = tmp_path / "last.ckpt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged"):
        fit(tmp_path, ckpt=path)


def test_a_pickle_that_runs_code_is_not_resumed_from(tmp_path: Path) -> None:
    class RunsCode:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": {}, "callbacks": RunsCode()}, tmp_path / "evil.ckpt")
    with pytest.raises(Exception, match="more than plain data"):
        WholeCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


class Waiting(Callback):
    """Records at each checkpoint whether it is written between the micro-batches of an optimizer step."""

    def __init__(self) -> None:
        self.inside: list[bool] = []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.inside.append(trainer.fit_loop._should_accumulate())


def test_the_last_checkpoint_of_a_run_that_averages_is_written_once(tmp_path: Path) -> None:
    written = Waiting()
    fit(tmp_path, written, EMAWeightAveraging(), every=100, epochs=2)
    assert len(written.inside) == 1
    assert (tmp_path / "last.ckpt").is_file()


def test_no_checkpoint_is_written_inside_an_accumulation_window(tmp_path: Path) -> None:
    fit(tmp_path, window=4, every=1)
    resumed = Waiting()
    fit(tmp_path, resumed, window=4, every=1, ckpt=tmp_path / "last.ckpt", epochs=2)
    assert resumed.inside
    assert not any(resumed.inside)


def test_another_checkpoint_io_is_kept(tmp_path: Path) -> None:
    class Own(TorchCheckpointIO):
        pass

    trainer = Trainer(accelerator="cpu", logger=False, plugins=[Own()], default_root_dir=tmp_path)
    use_whole_checkpoints(trainer)
    assert type(trainer.strategy.checkpoint_io) is Own
    plain = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    use_whole_checkpoints(plain)
    assert type(plain.strategy.checkpoint_io) is WholeCheckpointIO

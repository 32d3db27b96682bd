"""A complete checkpoint exists at every moment, whenever a run is killed."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from torch.distributed.checkpoint.api import CheckpointException

from mmcomponents.checkpoints.runs import part_of, recover, replace, verify, write_error


class Killed(BaseException):
    """Stands for SIGKILL."""


def folders(shards: Path) -> tuple[Path, Path]:
    """Returns the complete successor of a checkpoint, and the checkpoint."""
    part = part_of(shards)
    shutil.copytree(shards, part)
    (part / "new").touch()
    return part, shards


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the operation of this number, and all after it, fail as if the process were killed before it."""
    done = [0]

    def counted(real):
        def operate(*arguments, **options):
            done[0] += 1
            if done[0] > step:
                raise Killed
            return real(*arguments, **options)

        return operate

    monkeypatch.setattr(Path, "rename", counted(Path.rename))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))


@pytest.mark.parametrize("step", range(4))
def test_a_kill_at_any_step_leaves_a_complete_checkpoint(shards: Path, monkeypatch, step: int) -> None:
    part, path = folders(shards)
    with monkeypatch.context() as patch:
        killed_at(step, patch)
        if step < 3:
            with pytest.raises(Killed):
                replace(part, path)
        else:
            replace(part, path)
    done = recover(path.parent)
    verify(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]
    assert (path / "new").exists() == (step > 0)
    assert len(done) == (0 if step == 3 else 1), "each change is told"


def test_an_incomplete_successor_is_removed_and_the_old_one_restored(shards: Path) -> None:
    part, path = folders(shards)
    (part / "checksums.json").unlink()
    assert recover(path.parent) == [f"removed {part}, which was to replace a checkpoint"]
    part, path = folders(shards)
    (part / "checksums.json").unlink()
    path.rename(path.with_name("last.ckpt.replaced"))
    told = recover(path.parent)
    verify(path)
    assert told[0].endswith("renamed back to last.ckpt: its replacement was not complete".removeprefix("renamed "))
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]


def test_a_predecessor_that_cannot_be_removed_does_not_undo_a_save(shards: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    part, path = folders(shards)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", fail)
        replace(part, path)
    assert (path / "new").exists()
    assert recover(path.parent) == [f"removed {path}.replaced, the predecessor of a checkpoint"]


def test_a_predecessor_is_kept_if_the_checkpoint_is_not_complete(shards: Path) -> None:
    shutil.copytree(shards, shards.with_name("last.ckpt.replaced"))
    (shards / "checksums.json").unlink()
    assert recover(shards.parent)[0].endswith("back to last.ckpt, which was not complete")
    verify(shards)
    assert [entry.name for entry in shards.parent.iterdir()] == ["last.ckpt"]


def test_a_file_and_a_folder_replace_each_other(shards: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.part"
    file.write_text("new")
    replace(file, shards)
    assert shards.read_text() == "new"
    part = tmp_path / "two.part"
    part.mkdir()
    replace(part, shards)
    assert shards.is_dir()
    assert [entry.name for entry in shards.parent.iterdir()] == ["last.ckpt"]


def test_the_reason_of_a_failed_write_is_found() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    hidden = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    hidden.__context__ = full
    path = Path("runs/a/last.ckpt.part")
    told = "the checkpoint last.ckpt cannot be written to runs/a: No space left on device"
    assert write_error(path, full) == write_error(path, hidden) == told
    assert write_error(path, CheckpointException("", {1: (hidden, None)})) == told
    assert "unexpected pos" in write_error(path, RuntimeError("unexpected pos"))

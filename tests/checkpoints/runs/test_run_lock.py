"""One run at a time writes into a folder."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from mmcomponents.checkpoints import CheckpointError
from mmcomponents.checkpoints.runs import run_lock


def hold(folder: Path, held: multiprocessing.synchronize.Event) -> None:
    with run_lock(folder):
        held.set()
        held.wait()
        os.kill(os.getpid(), 9)


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    with run_lock(tmp_path / "a"), run_lock(tmp_path / "b"):
        told = rf"process {os.getpid()} on \S+, started 20\d\d-"
        with pytest.raises(CheckpointError, match=told) as caught, run_lock(tmp_path / "a"):
            pass
        assert str(tmp_path / "a") in str(caught.value)
    with run_lock(tmp_path / "a"):
        pass


def test_a_killed_run_holds_no_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, held))
    process.start()
    process.join()
    assert process.exitcode == -9
    assert held.is_set()
    with run_lock(tmp_path):
        pass
    assert not (tmp_path / ".run.json").exists()

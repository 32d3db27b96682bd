from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path

import pytest
import torch

from mmcomponents.testing import Ranks, check_component


def environment(rank: int, name: str) -> tuple[int, str]:
    return rank, os.environ[name]


def fail(rank: int) -> None:
    if rank:
        raise ValueError("no data")


def test_each_rank_has_its_number_and_one_thread(two_ranks: Ranks) -> None:
    assert two_ranks.run(environment, "LOCAL_RANK") == [(0, "0"), (1, "1")]
    assert two_ranks.run(environment, "WORLD_SIZE") == [(0, "2"), (1, "2")]
    assert two_ranks.run(lambda rank: torch.get_num_threads()) == [1, 1]


def test_an_error_names_its_rank_and_the_ranks_go_on(two_ranks: Ranks) -> None:
    with pytest.raises(RuntimeError, match=r"^rank 1: ValueError: no data \(.*test_ranks\.py:\d+\)$"):
        two_ranks.run(fail)
    assert two_ranks.run(environment, "LOCAL_RANK") == [(0, "0"), (1, "1")]


def end_or_wait(rank: int, code: int | None) -> None:
    if rank and code is not None:
        os._exit(code)
    time.sleep(60)


def test_processes_that_end_or_hang_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmcomponents.testing.ranks._GRACE", 1.0)
    with Ranks() as ranks:
        with pytest.raises(RuntimeError, match=r"^rank 0 gave no answer in time; rank 1 ended with exit code 3$"):
            ranks.run(end_or_wait, 3, timeout=60.0)
        assert ranks.run(environment, "LOCAL_RANK") == [(0, "0"), (1, "1")]


def wait(rank: int, seconds: float, answer: str) -> str:
    time.sleep(seconds)
    return answer


def test_an_answer_that_the_caller_did_not_wait_for_is_not_given_later(
    two_ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(two_ranks, "_answers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            two_ranks.run(wait, 0.0, "early")
    assert two_ranks.run(wait, 0.0, "late") == ["late", "late"]


def test_a_process_ends_with_its_line_as_when_its_starter_has_ended() -> None:
    ranks = Ranks(1)
    try:
        assert ranks.run(environment, "WORLD_SIZE") == [(0, "1")]
        ranks._lines[0].close()
        ranks._processes[0].join(60)
        assert ranks._processes[0].exitcode == 0
    finally:
        ranks.close()


SOURCE = """
from mmcomponents.projectors import LinearProjector

class Mine(LinearProjector):
    pass

def number(rank):
    return rank, Mine.__name__
"""


def test_classes_of_a_module_that_other_processes_cannot_import(two_ranks: Ranks, tmp_path: Path) -> None:
    """As of a script, and of a test file under `--import-mode=importlib`."""
    (tmp_path / "mine.py").write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("tests_of_mine.mine", tmp_path / "mine.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        assert two_ranks.run(module.number) == [(0, "Mine"), (1, "Mine")]
        tests = ["two_ranks_equal_one", "sharded_equals_plain"]
        assert check_component("projector", module.Mine, only=tests, ranks=two_ranks)
    finally:
        del sys.modules[spec.name]
    assert two_ranks.run(environment, "LOCAL_RANK") == [(0, "0"), (1, "1")]

"""Tests of `run_ladder.py`: the stages that it runs, skips and repeats."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console


@pytest.fixture
def called(ladder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The last arguments of the commands that ran, of which the first is the output folder; "fail" fails."""
    monkeypatch.chdir(tmp_path)
    words_last: list[str] = []

    class Child:
        def __init__(self, words: list[str], env: dict[str, str], **rest: object) -> None:
            self.folder, self.word, self.threads = Path(words[3]), words[-1], env.get("OMP_NUM_THREADS")

        def wait(self) -> int:
            words_last.append(self.word)
            self.folder.mkdir(exist_ok=True)
            (self.folder / "made").touch()
            return 2 if self.word == "fail" else 0

        def terminate(self) -> None:
            words_last.append(f"{self.word} terminated")

    monkeypatch.setattr(ladder.subprocess, "Popen", Child)
    return words_last


def run_all(ladder: ModuleType, monkeypatch: pytest.MonkeyPatch, chain: list[object], jobs: int = 1) -> dict[str, Any]:
    monkeypatch.setattr(ladder, "stages", lambda seed: chain)
    with Path("out").open("w") as out:
        seconds: dict[str, Any] = ladder.LadderRun(0, Console(file=out), jobs).run()
    return seconds


def three(ladder: ModuleType, *more: str) -> list[object]:
    return [
        ladder.Stage("one", ["one", *more], (Path("one"),)),
        ladder.Stage("two", ["two"], (Path("two"),), ["one"]),
        ladder.Stage("beside", ["beside"], (Path("beside"),)),
    ]


def test_a_stage_that_is_whole_is_skipped_and_a_change_undoes_what_follows(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = run_all(ladder, monkeypatch, three(ladder))
    assert set(seconds["of"]) == {"one", "two", "beside"}
    assert run_all(ladder, monkeypatch, three(ladder))["seconds"] > seconds["seconds"]
    assert called == ["one", "two", "beside"]
    (Path("two") / "left").touch()
    run_all(ladder, monkeypatch, three(ladder, "--more"))
    assert called == ["one", "two", "beside", "--more", "two"]
    assert not (Path("two") / "left").exists(), "made from other files"


def test_a_stage_whose_folder_is_gone_is_done_again_and_so_is_what_follows(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all(ladder, monkeypatch, three(ladder))
    shutil.rmtree("one")
    (Path("two") / "left").touch()
    run_all(ladder, monkeypatch, three(ladder))
    assert called == ["one", "two", "beside", "one", "two"]
    assert not (Path("two") / "left").exists()


def test_a_run_that_is_killed_in_a_stage_goes_on_with_it_and_never_takes_it_for_whole(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all(ladder, monkeypatch, three(ladder))

    def killed(self: Any) -> int:
        (self.folder / "journal").parent.mkdir(exist_ok=True)
        (self.folder / "journal").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(ladder.subprocess.Popen, "wait", killed)
        with pytest.raises(KeyboardInterrupt):
            run_all(ladder, monkeypatch, three(ladder, "--more"))
    assert called[3:] == ["--more terminated"]
    run_all(ladder, monkeypatch, three(ladder, "--more"))
    assert (Path("one") / "journal").exists(), "the same command goes on with what it had"
    run_all(ladder, monkeypatch, three(ladder))
    assert called[3:] == ["--more terminated", "--more", "two", "one", "two"]
    assert not (Path("one") / "journal").exists()


def test_a_training_goes_on_from_its_checkpoint(ladder: ModuleType, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stage = ladder.Stage("train it", ["fit", "--config", "r"], (run,))
    kept = run / "checkpoints" / "last.ckpt"
    (run / "checkpoints" / "last.ckpt.part").mkdir(parents=True)
    assert ladder._goes_on(stage) == []
    assert not run.exists()
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert ladder._goes_on(ladder.Stage("draw", ["data", "preferences"], (run,))) == []
    assert ladder._goes_on(stage) == ["--ckpt_path", kept.as_posix()]


def test_a_stage_that_says_it_is_done_when_it_is_stopped_is_not_whole(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(ladder.subprocess.Popen, "terminate", lambda self: ended.set())
    monkeypatch.setattr(ladder.subprocess.Popen, "wait", lambda self: (self.folder.mkdir(), ended.wait(20), 0)[-1])

    def interrupted(*_: object, **__: object) -> None:
        while not Path("one").is_dir():
            time.sleep(0.01)
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(ladder, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_all(ladder, monkeypatch, three(ladder))
    notes = json.loads(Path("runs/ladder/seed-0/stages.json").read_text())
    assert notes["of"]["one"]["whole"] is False
    assert "one: stopped" in Path("out").read_text()


def test_a_run_that_is_stopped_after_everything_has_changed_goes_on(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all(ladder, monkeypatch, three(ladder))
    changed = [
        ladder.Stage(stage.name, [*stage.command, "--new"], stage.made, stage.after)  # type: ignore[attr-defined]
        for stage in three(ladder)
    ]

    def killed(self: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(ladder.subprocess.Popen, "wait", killed)
        with pytest.raises(KeyboardInterrupt):
            run_all(ladder, monkeypatch, changed)
    run_all(ladder, monkeypatch, changed)  # the folders of "two" and "beside" are still those of the first run
    assert called[-3:] == ["--new"] * 3


def test_files_of_others_are_left_alone(ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("two").mkdir()
    Path("two/mine").touch()
    with pytest.raises(SystemExit, match="two exists and is not from a stage of this run: move it away"):
        run_all(ladder, monkeypatch, three(ladder))
    assert called == []
    assert Path("two").is_dir()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"seconds": 1, "of": {"one": 3}}', '{"seconds": null, "of": {}}'])
def test_notes_that_no_run_has_written(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    Path("runs/ladder/seed-0").mkdir(parents=True)
    Path("runs/ladder/seed-0/stages.json").write_text(text)
    with pytest.raises(SystemExit, match=r"stages\.json has an unknown format: move runs/ladder/seed-0 away"):
        run_all(ladder, monkeypatch, three(ladder))


def test_a_run_is_killed_and_its_clock_is_kept(ladder: ModuleType, tmp_path: Path) -> None:
    """With real processes, a running stage keeps the lock after the driver was killed, and no seconds are lost."""
    wait = "import os, time; open('two', 'w'); [time.sleep(0.1) for _ in range(1200) if not os.path.exists('go')]"
    (tmp_path / "driver.py").write_text(f"""
import importlib.util, subprocess, sys
from pathlib import Path
from rich.console import Console
spec = importlib.util.spec_from_file_location("ladder", {ladder.__file__!r})
sys.modules["ladder"] = ladder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ladder)
real = subprocess.Popen
ladder.subprocess.Popen = lambda words, **rest: real([sys.executable, "-c", words[-1]], **rest)
one = ladder.Stage("one", ["import time; time.sleep(1); open('one', 'w')"], (Path("one"),))
ladder.stages = lambda seed: [one, ladder.Stage("two", [{wait!r}], (Path("two"),), ["one"])]
ladder.LadderRun(0, Console()).run()
""")
    driver = [sys.executable, "driver.py"]
    running = subprocess.Popen(driver, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    waited = time.monotonic() + 60
    while not (tmp_path / "two").exists():
        assert time.monotonic() < waited
        assert running.poll() is None
        time.sleep(0.02)
    running.kill()
    running.communicate()
    notes = tmp_path / "runs/ladder/seed-0/stages.json"
    assert json.loads(notes.read_text())["seconds"] >= 1
    beside = subprocess.run(driver, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "another run is in progress" in beside.stderr, "the stage lives on, and has the lock"
    (tmp_path / "go").touch()
    with (tmp_path / "runs/ladder/seed-0/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the stage has ended
    subprocess.run(driver, cwd=tmp_path, capture_output=True, check=True)
    known = json.loads(notes.read_text())
    assert all(note["whole"] for note in known["of"].values())
    assert known["seconds"] >= 1 + known["of"]["two"]["seconds"]


def test_a_stage_that_is_done_again_leaves_a_link_to_a_larger_disk(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all(ladder, monkeypatch, three(ladder))
    Path("one").rename("large")
    Path("one").symlink_to("large")
    Path("large/left").touch()
    Path("large/below").mkdir()
    Path("large/below/left").touch()
    disk = Path("large").stat().st_ino
    run_all(ladder, monkeypatch, three(ladder, "--more"))
    assert Path("one").is_symlink()
    assert not (Path("large") / "left").exists()
    assert not (Path("large") / "below").exists()
    assert Path("large").stat().st_ino == disk, "emptied, not made anew: it may be where a disk begins"


def test_a_link_to_an_empty_folder_is_there_before_the_first_run(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("large").mkdir()
    Path("one").symlink_to("large")
    run_all(ladder, monkeypatch, three(ladder))
    assert called == ["one", "two", "beside"]
    assert Path("one").is_symlink()


def test_one_run_at_a_time(ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def second(self: Any) -> int:
        with pytest.raises(SystemExit, match="another run is in progress"):
            run_all(ladder, monkeypatch, three(ladder))
        return 0

    monkeypatch.setattr(ladder.subprocess.Popen, "wait", second)
    run_all(ladder, monkeypatch, [ladder.Stage("one", ["one"], (Path("one"),))])


def test_a_stage_that_fails_ends_the_run_and_is_not_whole(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = [
        ladder.Stage("one", ["one", "fail"], (Path("one"),)),
        ladder.Stage("two", ["two"], (Path("two"),), ["one"]),
    ]
    with pytest.raises(SystemExit, match=r"'one' ended with exit code 2; see runs/ladder/seed-0/logs/one\.txt"):
        run_all(ladder, monkeypatch, chain, jobs=2)
    assert called == ["fail"]
    notes = json.loads(Path("runs/ladder/seed-0/stages.json").read_text())
    assert notes["of"]["one"]["whole"] is False
    assert notes["seconds"] > 0


def test_two_stages_run_at_a_time_where_neither_reads_the_other(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, plain = threading.Barrier(2, timeout=20), ladder.subprocess.Popen.wait

    threads: dict[str, str] = {}

    def run(self: Any) -> int:
        threads[self.word] = self.threads
        if self.word in ("a", "b"):
            together.wait()  # passes only where both are running
        code: int = plain(self)
        return code

    monkeypatch.setattr(ladder.subprocess.Popen, "wait", run)
    chain = [
        ladder.Stage("first", ["first"], (Path("first"),)),
        ladder.Stage("a", ["a"], (Path("a"),), ["first"]),
        ladder.Stage("b", ["b"], (Path("b"),), ["first"]),
        ladder.Stage("last", ["last"], (Path("last"),), ["a", "b"]),
    ]
    run_all(ladder, monkeypatch, chain, jobs=2)
    assert called[0] == "first"
    assert called[-1] == "last"
    assert sorted(called) == ["a", "b", "first", "last"]
    assert threads == {"first": "2", "a": "1", "b": "1", "last": "2"}, "both, where nothing can run beside"

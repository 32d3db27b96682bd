"""Runs of an ablation in processes of their own: order, resuming, failures, interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mmcomponents.checkpoints.runs.run_lock import run_lock
from mmcomponents.cli.ablation.ablation_runs import (
    LOG,
    Run,
    Runner,
    State,
    _error_of,
    _seconds_before,
    gpus_of_jobs,
    read_state,
    runs_of,
    write_state,
)
from mmcomponents.cli.ablation.ablation_spec import make_ablation
from mmcomponents.cli.user_error import UserError

STANDIN = """
import os, pathlib, sys, time
verb, words = sys.argv[1], sys.argv[2:]
value = dict(zip(words[::2], words[1::2]))
folder = pathlib.Path(value["--trainer.default_root_dir"])
folder.mkdir(parents=True, exist_ok=True)
if verb == "fit":
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "gpus").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "unset"))
    (folder / "recipe.yaml").write_text("")
    if value["--model.projector"] == "Bad":
        print("working"); print("mmcomponents: no such part", file=sys.stderr); sys.exit(2)
    (folder / "checkpoints" / "last.ckpt").write_text("")
    if value["--model.projector"] == "Slow" and "--ckpt_path" not in value:
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            print("interrupted", flush=True); sys.exit(130)
elif value.get("--data.test") == "missing":
    print("no test data", file=sys.stderr); sys.exit(2)
else:
    (folder / "answers.jsonl").write_text("")
"""


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    """A program in the place of `mmcomponents`."""
    (tmp_path / "standin.py").write_text(STANDIN)
    return [sys.executable, str(tmp_path / "standin.py")]


def runs(out: Path, *projectors: str, seeds: str = "0", tests: Any = None) -> list[Run]:
    tree = {"runs": {name: {"model.projector": name} for name in projectors}} | ({"tests": tests} if tests else {})
    return runs_of(make_ablation(tree, ["quickstart"], [], [], seeds), out)


def test_a_run_is_a_fit_and_a_test_with_its_seed(tmp_path: Path) -> None:
    first, second = runs(tmp_path, "MLP", "Linear", seeds="3", tests={"a": {}, "b c": {"data.test": "x"}})
    assert second.name == "Linear/seed-3"
    assert first.fit_words() == [
        "fit", "--config", "quickstart", "--model.projector", "MLP", "--seed_everything", "3",
        "--trainer.default_root_dir", f"{tmp_path}/MLP/seed-3",
    ]  # fmt: skip
    assert first.test_words("b c", "last.ckpt") == [
        "test", "--config", f"{tmp_path}/MLP/seed-3/recipe.yaml", "--ckpt_path", "last.ckpt", "--data.test", "x",
        "--trainer.default_root_dir", f"{tmp_path}/MLP/seed-3/test-b_c",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("mmcomponents: no such part\n", "mmcomponents: no such part"),
        ("Traceback (most recent call last):\n  File\nValueError: bad\nafterwards\n", "ValueError: bad"),
        (
            "Traceback (most recent call last):\n  a\nKeyError: 1\n\nDuring handling\n\n"
            "Traceback (most recent call last):\n  b\nRuntimeError: Error(s) in loading M:\n\tsize of w\n\tsize of b\n",
            "RuntimeError: Error(s) in loading M: size of w",
        ),
        ("Traceback (most recent call last):\n  a\nE: old\n$ mmcomponents test\nlast\n", "last"),
        ("$ mmcomponents test\n", "exit code 3"),
    ],
)
def test_the_line_of_an_error_is_found(tmp_path: Path, log: str, error: str) -> None:
    (tmp_path / LOG).write_text("$ mmcomponents fit\n" + log)
    assert _error_of(tmp_path / LOG, 3) == error
    assert _error_of(tmp_path / LOG, -9) == "killed by SIGKILL, as by a lack of memory"


def test_seconds_count_what_is_kept(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_text("")
    os.utime(checkpoint, (1000.0, 1000.0))
    assert _seconds_before(State([], seconds=50.0, began=900.0), None) == 0
    assert _seconds_before(State([], seconds=50.0, began=900.0), str(checkpoint)) == 150
    assert _seconds_before(State([], seconds=50.0, began=1100.0), str(checkpoint)) == 50
    assert _seconds_before(State([], seconds=50.0), str(checkpoint)) == 50


def test_a_folder_may_be_written_in_several_ways(
    tmp_path: Path, program: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = runs(tmp_path / "o", "MLP")
    Runner(1, lambda _: None, program).run_all([run], lambda *_: None)
    monkeypatch.chdir(tmp_path)
    (same,) = runs(Path("o"), "MLP")
    assert read_state(same).is_done(same)


def test_a_failed_run_stops_nothing_and_is_tried_again(tmp_path: Path, program: list[str]) -> None:
    every, ended, told = runs(tmp_path, "MLP", "Bad", "Linear", seeds="0,1"), {}, []
    Runner(2, told.append, program).run_all(every, lambda run, state: ended.update({run.name: state}))
    assert {name: state.error for name, state in ended.items() if state.errors()} == {
        "Bad/seed-0": "mmcomponents: no such part",
        "Bad/seed-1": "mmcomponents: no such part",
    }
    assert all(read_state(run).is_done(run) for run in every if run.variant.name != "Bad")
    assert "$ mmcomponents fit --config quickstart" in (every[0].folder / LOG).read_text()
    assert len(told) == 6
    told.clear()
    Runner(1, told.append, program).run_all(every, lambda *_: None)
    assert sorted(line.partition(":")[0] for line in told) == ["Bad/seed-0", "Bad/seed-1"]


@pytest.mark.parametrize(
    ("jobs", "gpus", "own"),
    [(2, "abcd", ["ab", "cd"]), (3, "abcd", ["a", "b", "c"]), (3, "ab", ["a", "b", "a"]), (2, "", ["", ""])],
)
def test_runs_at_a_time_divide_the_gpus(jobs: int, gpus: str, own: list[str]) -> None:
    assert gpus_of_jobs(jobs, gpus) == [list(part) for part in own]


def test_runs_see_their_own_gpus(tmp_path: Path, program: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    both = runs(tmp_path, "MLP", "Linear")
    Runner(2, lambda _: None, program, ["4", "5", "6", "7"]).run_all(both, lambda *_: None)
    assert {(run.folder / "gpus").read_text() for run in both} == {"4,5", "6,7"}
    (alone,) = runs(tmp_path, "Third")
    Runner(1, lambda _: None, program, ["4", "5", "6", "7"]).run_all([alone], lambda *_: None)
    assert (alone.folder / "gpus").read_text() == "4,5,6,7"


def test_a_failed_test_is_told_and_the_others_are_kept(tmp_path: Path, program: list[str]) -> None:
    (run,) = runs(tmp_path, "MLP", tests={"bad": {"data.test": "missing"}, "good": {}})
    Runner(1, lambda _: None, program).run_all([run], lambda *_: None)
    state = read_state(run)
    assert (state.fitted, state.tested, state.test_errors) == (True, {"good": {}}, {"bad": "no test data"})
    assert (run.test_folder("good") / "answers.jsonl").exists()


def test_an_interrupt_ends_all_runs_and_the_next_call_goes_on(tmp_path: Path, program: list[str]) -> None:
    code = (
        "import sys, pathlib, signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"  # as in the background
        "from mmcomponents.cli.ablation.ablation_runs import *;"
        "from mmcomponents.cli.ablation.ablation_spec import make_ablation;"
        "a = make_ablation({'runs': {n: {'model.projector': n} for n in ('Slow', 'Slow2')}}, ['quickstart'],"
        " [], [], '0');"
        f"Runner(1, print, {program!r}).run_all(runs_of(a, pathlib.Path({str(tmp_path)!r})), print)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    checkpoint = tmp_path / "Slow" / "seed-0" / "checkpoints" / "last.ckpt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    error = process.communicate(timeout=600)[1]
    assert "KeyboardInterrupt" in error
    assert "interrupted" in (tmp_path / "Slow" / "seed-0" / LOG).read_text()
    assert not (tmp_path / "Slow2").exists()
    (run,) = runs(tmp_path, "Slow")
    state = read_state(run)
    assert (state.fitted, state.error) == (False, "")
    Runner(1, lambda _: None, program).run_all([run], lambda *_: None)
    assert read_state(run).is_done(run)
    assert f"--ckpt_path {checkpoint}" in (run.folder / LOG).read_text()


def test_a_folder_of_another_run_is_refused(tmp_path: Path, program: list[str]) -> None:
    (run,) = runs(tmp_path, "MLP")
    Runner(1, lambda _: None, program).run_all([run], lambda *_: None)
    tree = {"runs": {"MLP": {"model.projector": "MLP", "trainer.max_steps": 7}}}
    (other,) = runs_of(make_ablation(tree, ["quickstart"], [], [], "0"), tmp_path)
    with pytest.raises(UserError, match=r"has a run with other settings \(--trainer.max_steps 7\)"):
        read_state(other)
    (run.folder / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"state\.json cannot be read"):
        read_state(run)


def test_a_state_is_written_as_it_is_read(tmp_path: Path) -> None:
    (run,) = runs(tmp_path, "MLP")
    assert read_state(run) == State(run.settings(), run.recipe)
    run.folder.mkdir(parents=True)
    state = State(run.settings(), run.recipe, True, {"": {}}, 2.5, "", {}, {"parameters": 3})
    (run.folder / "state.json").write_text(json.dumps(vars(state)))
    assert read_state(run) == state


def test_changed_settings_of_a_test_are_another_test(tmp_path: Path, program: list[str]) -> None:
    for settings, calls in (({"data.test": "a"}, 1), ({"data.test": "a"}, 1), ({"data.test": "b"}, 2)):
        (run,) = runs(tmp_path, "MLP", tests={"one": settings})
        Runner(1, lambda _: None, program).run_all([run], lambda *_: None)
        assert (run.folder / LOG).read_text().count("mmcomponents test") == calls
        assert read_state(run).is_done(run)


def test_a_changed_recipe_is_refused(tmp_path: Path, program: list[str]) -> None:
    recipe = tmp_path / "r.yaml"
    for steps, message in ((1, ""), (2, "before the file was changed")):
        recipe.write_text(f"extends: quickstart\ntrainer: {{max_steps: {steps}}}\n")
        tree = {"runs": {"a": {"model.projector": "MLP"}}}
        (run,) = runs_of(make_ablation(tree, [str(recipe)], [], [], "0"), tmp_path / "o")
        if message:
            with pytest.raises(UserError, match=message):
                read_state(run)
        else:
            Runner(1, lambda _: None, program).run_all([run], lambda *_: None)


def test_a_recipe_without_test_data_is_only_trained(tmp_path: Path, program: list[str]) -> None:
    tree = {"runs": {"a": {"model.projector": "MLP"}}}
    (tmp_path / "r.yaml").write_text("extends: quickstart\ndata: {test: null}\n")
    (run,) = runs_of(make_ablation(tree, [str(tmp_path / "r.yaml")], [], [], "0"), tmp_path / "o")
    Runner(1, lambda _: None, program).run_all([run], lambda *_: None)
    assert read_state(run).is_done(run)
    assert "mmcomponents test" not in (run.folder / LOG).read_text()
    settings = [("data.test", "x.tar")]
    assert runs_of(make_ablation(tree, [str(tmp_path / "r.yaml")], settings, [], "0"), tmp_path)[0].has_test_data


def test_a_checkpoint_is_found_where_lightning_writes_it(tmp_path: Path, program: list[str]) -> None:
    (run,) = runs(tmp_path, "MLP")
    place = run.folder / "lightning_logs" / "version_0" / "checkpoints"
    place.mkdir(parents=True)
    (place / "epoch=0.ckpt").write_text("")
    Runner(1, lambda _: None, program).run_all([run], lambda *_: None)
    assert f"--ckpt_path {place}/epoch=0.ckpt" in (run.folder / LOG).read_text().splitlines()[0]


def test_a_checkpoint_that_a_killed_run_was_writing_is_removed_unless_the_run_is_alive(
    tmp_path: Path, program: list[str]
) -> None:
    (run,) = runs(tmp_path, "MLP")
    part = run.folder / "checkpoints" / "last.ckpt.part"
    part.mkdir(parents=True)
    with run_lock(run.folder):
        Runner(1, lambda _: None, program).run_all([run], lambda *_: None)
        assert part.exists()
    write_state(run, State(run.settings(), run.recipe))
    Runner(1, lambda _: None, program).run_all([run], lambda *_: None)
    assert not part.exists()


def test_a_run_of_another_call_is_left_alone(tmp_path: Path, program: list[str]) -> None:
    import fcntl

    (run,) = runs(tmp_path, "MLP")
    run.folder.mkdir(parents=True)
    told: list[str] = []
    with (run.folder / ".ablation.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Runner(1, told.append, program).run_all([run], lambda *_: None)
    assert told == ["MLP/seed-0: another call runs it"]
    assert not (run.folder / LOG).exists()


def test_a_killed_run_names_the_signal(tmp_path: Path) -> None:
    (tmp_path / "kill.py").write_text("import os\nprint('step 100', flush=True)\nos.kill(os.getpid(), 9)\n")
    (run,) = runs(tmp_path, "MLP")
    Runner(1, lambda _: None, [sys.executable, str(tmp_path / "kill.py")]).run_all([run], lambda *_: None)
    assert read_state(run).error == "killed by SIGKILL, as by a lack of memory"

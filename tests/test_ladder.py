"""The driver of `make ladder`: its chain fits together, and its paired test is McNemar's."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console
from scipy.stats import binomtest

from mmcomponents.cli.recipe import load

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def ladder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ladder_example", ROOT / "examples" / "ladder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("wins", "losses"), [(30, 12), (5, 5), (0, 3), (0, 0)])
def test_the_paired_test_is_the_binomial_one(ladder: ModuleType, wins: int, losses: int) -> None:
    upper = {f"{n}": n < wins for n in range(wins + losses + 4)}
    lower = {f"{n}": wins <= n < wins + losses for n in range(wins + losses + 4)}
    found = ladder.paired_test(upper, lower)
    several = wins + losses
    wanted = binomtest(wins, several).pvalue if several else 1.0
    assert (found["wins"], found["losses"]) == (wins, losses)
    assert found["p"] == pytest.approx(wanted, rel=1e-12)


LEARNT = {
    "text": {"documents", "sums"},
    "digits": {"documents", "names", "digits"},
    "statements": {"documents", "digits", "statements_one", "sums"},
    "pretrain": {"documents", "sums", "scenes", "statements"},
    "sft": {"solutions", "refresher"},
    "claims": {"claims"},
    "judge": {"mistakes"},
    "mpo": {"pairs/*"},
    "prm": {"steps/process"},
    "orm": {"steps/outcome"},
}
"""What each rung is trained on."""


def test_each_stage_reads_what_earlier_ones_have_made(ladder: ModuleType) -> None:
    chain: dict[str, Any] = {}
    runs, data = "runs/ladder/seed-3/", "data/ladder/seed-3/"
    for stage in ladder.stages(3):
        assert set(stage.after) <= set(chain), "what a stage comes after is before it in the chain"
        behind = list(stage.after)
        for name in behind:
            behind += chain[name].after
        made = [path.as_posix() for name in behind for path in chain[name].made]
        own = stage.made[0].as_posix()
        read = [word for word in stage.command if word.startswith((runs, data)) and not word.startswith(own)]
        for word in stage.command:
            if word.startswith("ladder/"):
                recipe = load([word])
                recipe.tree["seed_everything"] = 3
                tree = recipe.resolved()
                train = tree["data"]["train"] if isinstance(tree["data"]["train"], list) else [tree["data"]["train"]]
                parts = {path.removeprefix(data).removeprefix(runs).removesuffix(".tar") for path in train}
                assert {part.removesuffix("-*") for part in parts} == LEARNT[word.removeprefix("ladder/")]
                read += [*train, *filter(None, [tree["model"].get("weights"), tree["data"]["tokenizer"]])]
                assert tree["trainer"]["default_root_dir"] == own
        for path in read:
            if path.endswith("/model"):
                assert path in made, f"{stage.name} reads {path}, which no stage before it exports"
            assert any(path.startswith(f"{folder}/") or path == folder for folder in made), f"{stage.name}: {path}"
        chain[stage.name] = stage
    every = [path for stage in chain.values() for path in stage.made]
    assert len(set(every)) == len(every)
    tested = [stage.command for stage in chain.values() if stage.command[0] == "evaluate"]
    assert [command[command.index("--benchmark") + 1] for command in tested] == [f"{data}test-*.tar"] * 4
    assert tested[3][: len(tested[2])] == tested[2], "critics judge the candidates that were drawn before"
    asked = [stage.command[3] for stage in chain.values() if stage.name.startswith("draw")]
    assert asked == [f"{data}preferences-*.tar", f"{data}critic-*.tar"]


@pytest.fixture
def called(ladder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The last words of the commands that were run, of which the first is the folder made; "fail" fails."""
    monkeypatch.chdir(tmp_path)
    words_last: list[str] = []

    class Child:
        def __init__(self, words: list[str], env: dict[str, str], **rest: object) -> None:
            self.folder, self.word, self.threads = Path(words[3]), words[-1], env.get("OMP_NUM_THREADS")

        def wait(self) -> int:
            words_last.append(self.word)
            self.folder.mkdir(exist_ok=True)
            return 2 if self.word == "fail" else 0

        def terminate(self) -> None:
            words_last.append(f"{self.word} terminated")

    monkeypatch.setattr(ladder.subprocess, "Popen", Child)
    return words_last


def climb(ladder: ModuleType, monkeypatch: pytest.MonkeyPatch, chain: list[object], jobs: int = 1) -> dict[str, Any]:
    monkeypatch.setattr(ladder, "stages", lambda seed: chain)
    with Path("out").open("w") as out:
        seconds: dict[str, Any] = ladder.Climb(0, Console(file=out), jobs).run()
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
    seconds = climb(ladder, monkeypatch, three(ladder))
    assert set(seconds["of"]) == {"one", "two", "beside"}
    assert climb(ladder, monkeypatch, three(ladder))["seconds"] > seconds["seconds"]
    assert called == ["one", "two", "beside"]
    (Path("two") / "left").touch()
    climb(ladder, monkeypatch, three(ladder, "--more"))
    assert called == ["one", "two", "beside", "--more", "two"]
    assert not (Path("two") / "left").exists(), "made from other files"


def test_a_stage_whose_folder_is_gone_is_done_again_and_so_is_what_follows(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    climb(ladder, monkeypatch, three(ladder))
    Path("one").rmdir()
    (Path("two") / "left").touch()
    climb(ladder, monkeypatch, three(ladder))
    assert called == ["one", "two", "beside", "one", "two"]
    assert not (Path("two") / "left").exists()


def test_a_climb_that_is_killed_in_a_stage_goes_on_with_it_and_never_takes_it_for_whole(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    climb(ladder, monkeypatch, three(ladder))

    def killed(self: Any) -> int:
        (self.folder / "journal").parent.mkdir(exist_ok=True)
        (self.folder / "journal").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(ladder.subprocess.Popen, "wait", killed)
        with pytest.raises(KeyboardInterrupt):
            climb(ladder, monkeypatch, three(ladder, "--more"))
    assert called[3:] == ["--more terminated"]
    climb(ladder, monkeypatch, three(ladder, "--more"))
    assert (Path("one") / "journal").exists(), "the same command goes on with what it had"
    climb(ladder, monkeypatch, three(ladder))
    assert called[3:] == ["--more terminated", "--more", "two", "one", "two"]
    assert not (Path("one") / "journal").exists()


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
            climb(ladder, monkeypatch, three(ladder))
    notes = json.loads(Path("runs/ladder/seed-0/stages.json").read_text())
    assert notes["of"]["one"]["whole"] is False
    assert "one: stopped" in Path("out").read_text()


def test_a_climb_that_is_stopped_after_everything_has_changed_goes_on(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    climb(ladder, monkeypatch, three(ladder))
    changed = [
        ladder.Stage(stage.name, [*stage.command, "--new"], stage.made, stage.after)  # type: ignore[attr-defined]
        for stage in three(ladder)
    ]

    def killed(self: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(ladder.subprocess.Popen, "wait", killed)
        with pytest.raises(KeyboardInterrupt):
            climb(ladder, monkeypatch, changed)
    climb(ladder, monkeypatch, changed)  # the folders of "two" and "beside" are still those of the first climb
    assert called[-3:] == ["--new"] * 3


def test_files_of_others_are_left_alone(ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("two").mkdir()
    with pytest.raises(SystemExit, match="two is there, and no stage of this climb has made it: move it away"):
        climb(ladder, monkeypatch, three(ladder))
    assert called == []
    assert Path("two").is_dir()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"seconds": 1, "of": {"one": 3}}', '{"seconds": null, "of": {}}'])
def test_notes_that_no_climb_has_written(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    Path("runs/ladder/seed-0").mkdir(parents=True)
    Path("runs/ladder/seed-0/stages.json").write_text(text)
    with pytest.raises(SystemExit, match=r"stages\.json is not what a climb writes: move runs/ladder/seed-0 away"):
        climb(ladder, monkeypatch, three(ladder))


@pytest.mark.parametrize("seed", ["-1", "4294967296", "x"])
def test_a_seed_that_is_none(
    ladder: ModuleType, seed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ladder.py", "--seed", seed])
    with pytest.raises(SystemExit, match="2"):
        ladder.main()
    assert "--seed" in capsys.readouterr().err


def test_one_climb_at_a_time(ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def second(self: Any) -> int:
        with pytest.raises(SystemExit, match="another climb is under way"):
            climb(ladder, monkeypatch, three(ladder))
        return 0

    monkeypatch.setattr(ladder.subprocess.Popen, "wait", second)
    climb(ladder, monkeypatch, [ladder.Stage("one", ["one"], (Path("one"),))])


def test_a_stamp_changes_with_what_a_recipe_extends(
    ladder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stamps() -> dict[str, str]:
        found: dict[str, str] = {}
        for stage in ladder.stages(0):
            found[stage.name] = ladder._stamp(stage, [])
        return found

    before, plain = stamps(), ladder.recipe.load

    def changed(words: list[str]) -> Any:
        found = plain(words)
        if "ladder/prm" in words or "ladder/orm" in words:  # as a change of what both extend
            found.tree["trainer"]["max_steps"] = 7
        return found

    monkeypatch.setattr(ladder.recipe, "load", changed)
    after = stamps()
    assert {name for name in before if before[name] != after[name]} == {"train prm", "train orm"}
    monkeypatch.setattr(ladder.mmcomponents.data, "__path__", [str(tmp_path)])
    assert {name for name, stamp in stamps().items() if stamp != after[name]} == {"data"}


def test_a_stage_that_fails_ends_the_climb_and_is_not_whole(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = [
        ladder.Stage("one", ["one", "fail"], (Path("one"),)),
        ladder.Stage("two", ["two"], (Path("two"),), ["one"]),
    ]
    with pytest.raises(SystemExit, match=r"'one' ended with exit code 2; see runs/ladder/seed-0/logs/one\.txt"):
        climb(ladder, monkeypatch, chain, jobs=2)
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
    climb(ladder, monkeypatch, chain, jobs=2)
    assert called[0] == "first"
    assert called[-1] == "last"
    assert sorted(called) == ["a", "b", "first", "last"]
    assert threads == {"first": "2", "a": "1", "b": "1", "last": "2"}, "both, where nothing can run beside"


def test_nothing_runs_beside_what_the_whole_chain_waits_for(ladder: ModuleType) -> None:
    alone = ladder._alone(ladder.stages(0))
    legs = ("text", "digits", "statements", "pretrain")
    assert alone == {"data", *(f"{what} {leg}" for leg in legs for what in ("train", "export"))}


def test_the_report_reads_each_rung_from_its_own_evaluation(
    ladder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("first", "self_consistency", "best_of_n_prm", "best_of_n_orm", "oracle")
    right = {"pretrain": {"first": 1}, "sft": {"first": 2}, "mpo": dict(zip(names, (3, 4, 6, 5, 7), strict=True))}
    for rung, of in right.items():
        folder = Path("runs/ladder/seed-4/evaluate") / rung
        folder.mkdir(parents=True)
        lines = [{"key": f"{n}", "right": {name: float(n < many) for name, many in of.items()}} for n in range(10)]
        (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = ladder.report(4, {"seconds": 12.34, "of": {"data": 3.21}})
    shares = {"pretrain": 0.1, "sft": 0.2, "mpo": 0.3, "best_of_8_orm": 0.5, "best_of_8_prm": 0.6, "oracle_8": 0.7}
    assert found["add"] == pytest.approx(shares)
    assert found["self_consistency_8"] == pytest.approx(0.4)
    assert (found["seconds"], found["stages"], found["scenes"]) == (12.3, {"data": 3.2}, 10)
    wins = {name: (test["wins"], test["losses"]) for name, test in found["paired"].items()}
    assert wins["best_of_8_prm over best_of_8_orm"] == (1, 0)
    assert wins["best_of_8_prm over self_consistency_8"] == (2, 0)
    assert wins["mpo over sft"] == (1, 0)


def test_a_question_that_one_evaluation_lacks_is_an_error(ladder: ModuleType) -> None:
    with pytest.raises(ValueError, match="1 questions are in one of the two evaluations alone, such as b"):
        ladder.paired_test({"a": True}, {"a": True, "b": False})

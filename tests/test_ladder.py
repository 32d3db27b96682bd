"""The driver of `make ladder`: its chain fits together, and its paired test is McNemar's."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
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


def test_each_fit_starts_from_a_folder_that_an_earlier_stage_makes(ladder: ModuleType) -> None:
    chain: dict[str, Any] = {}
    for stage in ladder.stages(3):
        assert set(stage.after) <= set(chain), "what a stage comes after is before it in the chain"
        behind = list(stage.after)
        for name in behind:
            behind += chain[name].after
        made = [chain[name].made.as_posix() for name in behind]
        for word in stage.command:
            if word.startswith("ladder/"):
                recipe = load([word])
                recipe.tree["seed_everything"] = 3
                tree = recipe.resolved()
                train = tree["data"]["train"]
                read = [tree["model"].get("weights"), tree["data"]["tokenizer"]]
                read += train if isinstance(train, list) else [train]
                for path in filter(None, read):
                    assert any(path.startswith(folder) for folder in made), f"{stage.name} reads {path}"
                assert tree["trainer"]["default_root_dir"] == stage.made.as_posix()
        words = [w for w in stage.command if w.startswith(("runs/", "data/"))]
        for path in words:
            own = path.startswith(stage.made.as_posix())
            assert own or any(path.startswith(folder) for folder in made), f"{stage.name} reads {path}"
        chain[stage.name] = stage
    assert len({stage.made for stage in chain.values()}) == len(chain)


@pytest.fixture
def called(ladder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words last in each command that was run; one that says "fail" fails."""
    monkeypatch.chdir(tmp_path)
    words_last: list[str] = []

    class Done:
        def __init__(self, code: int) -> None:
            self.returncode = code

    def run(words: list[str], **rest: object) -> Done:
        words_last.append(words[-1])
        return Done(2 if words[-1] == "fail" else 0)

    monkeypatch.setattr(ladder.subprocess, "run", run)
    return words_last


def climb(ladder: ModuleType, monkeypatch: pytest.MonkeyPatch, chain: list[object], jobs: int = 1) -> dict[str, float]:
    monkeypatch.setattr(ladder, "stages", lambda seed: chain)
    with Path("out").open("w") as out:
        seconds: dict[str, float] = ladder.Climb(0, Console(file=out), jobs).run()
    return seconds


def test_a_stage_that_is_whole_is_skipped_and_a_change_undoes_what_follows(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def chain(*more: str) -> list[object]:
        one = ladder.Stage("one", ["1", *more], Path("one"))
        return [
            one,
            ladder.Stage("two", ["2"], Path("two"), ["one"]),
            ladder.Stage("beside", ["b"], Path("beside")),
        ]

    assert set(climb(ladder, monkeypatch, chain())) == {"one", "two", "beside", ""}
    climb(ladder, monkeypatch, chain())
    assert called == ["1", "2", "b"]
    climb(ladder, monkeypatch, chain("--more"))
    assert called == ["1", "2", "b", "--more", "2"]


def test_a_stage_that_fails_ends_the_climb_and_is_not_whole(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = [ladder.Stage("one", ["fail"], Path("one")), ladder.Stage("two", ["2"], Path("two"), ["one"])]
    with pytest.raises(SystemExit, match=r"'one' ended with exit code 2; see runs/ladder/seed-0/logs/one\.txt"):
        climb(ladder, monkeypatch, chain, jobs=2)
    assert called == ["fail"]
    notes = json.loads(Path("runs/ladder/seed-0/stages.json").read_text())
    assert notes["one"]["whole"] is False


def test_two_stages_run_at_a_time_where_neither_reads_the_other(
    ladder: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, plain = threading.Barrier(2, timeout=20), ladder.subprocess.run

    def run(words: list[str], **rest: object) -> object:
        if words[-1] in ("a", "b"):
            together.wait()  # passes only where both are running
        return plain(words, **rest)

    monkeypatch.setattr(ladder.subprocess, "run", run)
    chain = [
        ladder.Stage("first", ["first"], Path("first")),
        ladder.Stage("a", ["a"], Path("a"), ["first"]),
        ladder.Stage("b", ["b"], Path("b"), ["first"]),
        ladder.Stage("last", ["last"], Path("last"), ["a", "b"]),
    ]
    climb(ladder, monkeypatch, chain, jobs=2)
    assert called[0] == "first"
    assert called[-1] == "last"
    assert sorted(called) == ["a", "b", "first", "last"]

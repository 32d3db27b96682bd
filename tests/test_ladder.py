"""The driver of `make ladder`: its chain fits together, and its paired test is McNemar's."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

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
    made: list[str] = []
    for stage in ladder.stages(3):
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
        made.append(stage.made.as_posix())
    assert len(set(made)) == len(made)


def test_a_stage_that_is_whole_is_skipped_and_a_change_undoes_what_follows(
    ladder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chain = [ladder.Stage(name, [name], Path(name)) for name in ("one", "two")]
    monkeypatch.setattr(ladder, "stages", lambda seed: chain)
    called: list[str] = []

    class Done:
        returncode = 0

    def run(words: list[str], check: bool) -> Done:
        called.append(words[-1])
        return Done()

    monkeypatch.setattr(ladder.subprocess, "run", run)
    console = Console(file=(tmp_path / "out").open("w"))
    assert set(ladder.climb(0, console)) == {"one", "two"}
    ladder.climb(0, console)
    assert called == ["one", "two"]
    chain[0] = ladder.Stage("one", ["one", "--more"], Path("one"))
    ladder.climb(0, console)
    assert called == ["one", "two", "--more", "two"]


def test_a_stage_that_fails_ends_the_climb_and_is_not_whole(
    ladder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ladder, "stages", lambda seed: [ladder.Stage("one", ["fit"], Path("one"))])

    class Failed:
        returncode = 2

    monkeypatch.setattr(ladder.subprocess, "run", lambda words, check: Failed())
    with pytest.raises(SystemExit, match="'one' ended with exit code 2"):
        ladder.climb(0, Console(file=(tmp_path / "out").open("w")))
    notes = json.loads((tmp_path / "runs/ladder/seed-0/stages.json").read_text())
    assert notes["one"]["whole"] is False

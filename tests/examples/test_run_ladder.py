"""Tests of `run_ladder.py`: consistency of the chain, paired test and report."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scipy.stats import binomtest

from mmcomponents.cli.recipes.flags import Flags
from mmcomponents.cli.recipes.recipe import load
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.user_error import UserError
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.training import MultimodalTask


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
    "corrections": {"transcripts", "corrections"},
    "judge": {"mistakes"},
    "mpo": {"pairs/*"},
    "prm": {"steps/process"},
    "orm": {"steps/outcome"},
}
"""Parts of the data that each model is trained on."""

STARTS = {
    "text": None,
    "digits": "text",
    "statements": "digits",
    "pretrain": "statements",
    "sft": "pretrain",
    "claims": "pretrain",
    "corrections": "claims",
    "judge": "corrections",
    "mpo": "sft",
    "prm": "judge",
    "orm": "judge",
}
"""Model whose weights each one starts from."""


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
                name, weights = word.removeprefix("ladder/"), tree["model"].get("weights")
                assert {part.removesuffix("-*") for part in parts} == LEARNT[name]
                assert weights == (f"{runs}{STARTS[name]}/model" if STARTS[name] else None)
                read += [*train, *filter(None, [weights, tree["data"]["tokenizer"]])]
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


def option(stage: Any, name: str) -> list[str]:
    """Returns the values of an option in a stage's command."""
    words = list(stage.command)
    return [words[place + 1] for place, word in enumerate(words) if word == name]


def test_every_draw_and_training_has_the_seed(ladder: ModuleType) -> None:
    seeds = {stage.name: option(stage, "--seed") + option(stage, "--seed_everything") for stage in ladder.stages(3)}
    drawn = {"data", "draw preferences", "draw steps", *(name for name in seeds if name.startswith("evaluate"))}
    assert {name for name, of in seeds.items() if of} == {*drawn, "best of 8", *(f"train {name}" for name in LEARNT)}
    assert {tuple(of) for of in seeds.values() if of} == {("3",)}


def test_critics_judge_as_they_were_taught_and_the_first_candidate_is_compared(ladder: ModuleType) -> None:
    chain = {stage.name: stage for stage in ladder.stages(0)}
    told = [option(chain[name], "--critic_system") for name in ("draw steps", "best of 8")]
    assert told == [[""], [""]], "no system text in either, as in the data that they begin with"
    assert option(chain["best of 8"], "--aggregate") == ["min"]
    assert [option(chain[name], "--samples") for name in ("evaluate sft", "evaluate mpo")] == [[], ["8"]]
    assert [option(chain[f"draw {kind}"], "--top_p") for kind in ("preferences", "steps")] == [["1"], ["1"]]


@pytest.mark.parametrize("name", LEARNT)
def test_each_recipe_makes_a_task_and_its_data(name: str, tmp_path: Path) -> None:
    train_tokenizer(["Digit 1 is 7."], 400).save_pretrained(str(tmp_path))
    settings = [("seed_everything", "5"), ("data.tokenizer", str(tmp_path))]
    flags = Flags(configs=[f"ladder/{name}"], settings=settings)
    made = RecipeCLI("plan", flags, MultimodalTask, PackedDataModule)
    assert isinstance(made.model, MultimodalTask)
    assert isinstance(made.datamodule, PackedDataModule)


def test_results_that_are_gone_are_one_clear_line(ladder: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"results\.jsonl is missing: remove .*, and run the ladder again"):
        ladder.marks(tmp_path, "first")


@pytest.mark.parametrize("seed", ["-1", "4294967296", "x"])
def test_a_seed_that_is_none(
    ladder: ModuleType, seed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ladder.py", "--seed", seed])
    with pytest.raises(SystemExit, match="2"):
        ladder.main()
    assert f"a seed must be from 0 to 4294967295, got '{seed}'" in capsys.readouterr().err


def test_main_writes_the_report_twice_and_says_what_came_of_it(
    ladder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ladder.py", "--seed", "4"])
    monkeypatch.setattr(ladder.LadderRun, "run", lambda self: {"seconds": 61.0, "of": {}})
    monkeypatch.setattr(ladder, "_stop_at_signals", lambda: None)
    test = {"wins": 3, "losses": 1, "p": 0.625}
    found = {"add": dict.fromkeys(ladder.EVALUATED, 0.25), "self_consistency_8": 0.5, "paired": {"mpo over sft": test}}
    found["pairs_in_order"] = {"process": 0.875, "outcome": 0.5}
    monkeypatch.setattr(ladder, "report", lambda seed, seconds: {**found, **seconds, "seed": seed, "scenes": 40})
    assert ladder.main() == 0
    reports = [Path("runs/ladder", *folder, "report.json").read_text() for folder in (["seed-4"], [])]
    assert reports[0] == reports[1]
    assert json.loads(reports[0])["add"]["oracle_8"] == 0.25
    shown = capsys.readouterr().out
    assert all(
        word in shown for word in (*ladder.EVALUATED, "self_consistency_8", "40 held-out scenes", "0.62", "87.5%")
    )


@pytest.mark.parametrize(
    ("raised", "code"), [(KeyboardInterrupt(), 130), (UserError("no recipe 'x'"), "ladder: no rec")]
)
def test_main_ends_with_a_word(
    ladder: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    code: int | str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ladder.py"])

    def run(self: Any) -> None:
        raise raised

    monkeypatch.setattr(ladder.LadderRun, "run", run)
    monkeypatch.setattr(ladder, "_stop_at_signals", lambda: None)
    if isinstance(code, int):
        assert ladder.main() == code
        assert "stopped; the same command continues" in capsys.readouterr().out
    else:
        with pytest.raises(SystemExit, match=code):
            ladder.main()


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
    monkeypatch.setattr(ladder, "SCENES", tmp_path)
    assert {name for name, stamp in stamps().items() if stamp != after[name]} == {"data"}


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
    for name, of in right.items():
        folder = Path("runs/ladder/seed-4/evaluate") / name
        folder.mkdir(parents=True)
        judged = {"marks": [1.0, 0.0], "scores": {"process": [[0.9, 0.6], [0.9, 0.5]], "outcome": [[0.2], [0.3]]}}
        lines = [
            {"key": f"{n}", "right": {name: float(n < many) for name, many in of.items()}, **judged} for n in range(10)
        ]
        (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = ladder.report(4, {"seconds": 12.34, "of": {"data": 3.21}})
    shares = {"pretrain": 0.1, "sft": 0.2, "mpo": 0.3, "best_of_8_orm": 0.5, "best_of_8_prm": 0.6, "oracle_8": 0.7}
    assert found["add"] == pytest.approx(shares)
    assert found["self_consistency_8"] == pytest.approx(0.4)
    assert found["pairs_in_order"] == {"process": 1.0, "outcome": 0.0}
    assert (found["seconds"], found["stages"], found["scenes"]) == (12.3, {"data": 3.2}, 10)
    wins = {name: (test["wins"], test["losses"]) for name, test in found["paired"].items()}
    assert wins["best_of_8_prm over best_of_8_orm"] == (1, 0)
    assert wins["best_of_8_prm over self_consistency_8"] == (2, 0)
    assert wins["mpo over sft"] == (1, 0)


def test_a_question_that_one_evaluation_lacks_is_an_error(ladder: ModuleType) -> None:
    with pytest.raises(ValueError, match="1 questions are in only one of the two evaluations, such as b"):
        ladder.paired_test({"a": True}, {"a": True, "b": False})


def test_a_closed_terminal_stops_a_run_unless_nohup_says_otherwise(
    ladder: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught: dict[Any, Any] = {}
    monkeypatch.setattr(signal, "signal", caught.__setitem__)
    monkeypatch.setattr(signal, "getsignal", lambda of: signal.SIG_DFL)
    ladder._stop_at_signals()
    assert set(caught) == {signal.SIGTERM, signal.SIGHUP}
    with pytest.raises(KeyboardInterrupt):
        caught[signal.SIGHUP](signal.SIGHUP, None)
    caught.clear()
    monkeypatch.setattr(signal, "getsignal", lambda of: signal.SIG_IGN if of == signal.SIGHUP else signal.SIG_DFL)
    ladder._stop_at_signals()
    assert set(caught) == {signal.SIGTERM}


def test_pairs_are_of_one_question_and_a_solution_is_as_good_as_its_least_step(
    ladder: ModuleType, tmp_path: Path
) -> None:
    lines = [
        {"marks": [1.0, 0.0, 0.0], "scores": {"process": [[0.9, 0.4], [0.5, 0.5], [0.9, 0.3]]}},  # lost, won
        {"marks": [0.0, 1.0], "scores": {"process": [[0.2], [0.2]]}},  # equal
        {"marks": [1.0, 1.0], "scores": {"process": [[0.1], [0.8]]}},  # none
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert ladder.in_order(tmp_path, "process") == 0.5
    (tmp_path / "results.jsonl").write_text(json.dumps(lines[0]).replace("0.4", "0.6") + "\n")
    assert ladder.in_order(tmp_path, "process") == 1.0
    (tmp_path / "results.jsonl").write_text(json.dumps(lines[2]) + "\n")
    assert ladder.in_order(tmp_path, "process") == 0.5, "no pairs: nothing known"

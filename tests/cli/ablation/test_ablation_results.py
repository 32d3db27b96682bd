"""Figures of runs and their comparison with the base, as texts, files and plot."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest, ttest_rel

from mmcomponents.cli.ablation.ablation_report import (
    bases_of,
    notes_of,
    rows_of,
    table_of,
    write_hparams,
    write_tables,
)
from mmcomponents.cli.ablation.ablation_results import collect, compare, metrics_of
from mmcomponents.cli.ablation.ablation_runs import Run, State, runs_of, write_state
from mmcomponents.cli.ablation.ablation_spec import make_ablation
from mmcomponents.cli.terminal.tables import table_console

QUESTIONS = 40
SHARES = {"base": (20, 22, 24), "better": (30, 31, 35), "worse": (20, 20, 20)}
"""Right answers of each run."""


def answered(run: Run, right: int, **more: Any) -> None:
    rows = [
        {"key": f"k{n}", "kind": "read" if n % 2 else "count", "question": "?", "is_right": n < right}
        for n in range(QUESTIONS)
    ]
    folder = run.test_folder(next(iter(run.tests)))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "boxes.json").write_text(json.dumps({"ap": right / 100, "deep": {"value": right, "text": "x"}}))
    logs = run.folder / "lightning_logs" / "version_0"
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "metrics.csv").write_text(
        "step,val/loss,perf/tokens_per_second\n" + "".join(f"{n},{n / right},{100 * n}\n" for n in (1, 2, 6))
    )
    cost = {"parameters": 1000 + right, "trainable": 1000 + right, "flops": 2_000_000, "error": ""}
    write_state(run, State(run.settings(), run.recipe, True, dict(run.tests), 60.0, cost=cost | more))


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Three variants with three seeds; one run of the last failed and one is missing."""
    tree = {"runs": {name: {"model.projector": name} for name in SHARES}}
    every = runs_of(make_ablation(tree, ["quickstart"], [], [], "0,1,2"), tmp_path)
    for run in every:
        if run.variant.name != "worse" or run.seed == 0:
            answered(run, SHARES[run.variant.name][run.seed])
    write_state(every[5], State(every[5].settings(), every[5].recipe, error="mmcomponents: it broke"))
    return every


def test_figures_of_a_run_have_names(runs: list[Run]) -> None:
    figures = collect(runs)[0].outcomes[0].figures
    assert figures["exact_match"] == 0.5
    assert figures["exact_match.read"] == 0.5
    assert figures["boxes.ap"] == 0.2
    assert figures["boxes.deep.value"] == 20
    assert "boxes.deep.text" not in figures
    assert figures["val/loss"] == pytest.approx(6 / 20)  # the last one
    assert figures["perf/tokens_per_second"] == 200  # the median


def test_the_same_questions_are_compared_by_mcnemars_test(runs: list[Run]) -> None:
    base, better, worse = collect(runs)
    found = compare(better, base, "exact_match")
    assert found is not None
    assert found.difference == pytest.approx((30 + 31 + 35 - 20 - 22 - 24) / 3 / QUESTIONS)
    assert found.p_questions == pytest.approx(binomtest(30, 30).pvalue)
    assert found.p_seeds == pytest.approx(ttest_rel([30, 31, 35], [20, 22, 24]).pvalue)
    assert (found.questions, found.seeds) == (120, 3)
    read = compare(better, base, "exact_match.read")
    assert read is not None
    assert read.questions == 60
    one = compare(worse, base, "exact_match")  # the only seed that both have
    assert one is not None
    assert (one.difference, one.p_questions, one.p_seeds) == (0.0, 1.0, None)
    assert compare(base, base, "exact_match") is None


def test_figures_without_questions_are_compared_over_seeds(runs: list[Run]) -> None:
    base, better, worse = collect(runs)
    found = compare(better, base, "boxes.ap")
    assert found is not None
    assert found.p_questions is None
    assert found.p_seeds == pytest.approx(ttest_rel([0.30, 0.31, 0.35], [0.20, 0.22, 0.24]).pvalue)
    one = compare(worse, base, "boxes.ap")
    assert one is not None
    assert one.p_seeds is None


def test_other_questions_are_not_paired(runs: list[Run]) -> None:
    path = runs[1].folder / "answers.jsonl"
    path.write_text(path.read_text().replace('"k0"', '"other"'))
    base, better, _ = collect(runs)
    found = compare(better, base, "exact_match")
    assert found is not None
    assert found.p_questions is None
    assert found.p_seeds is not None


def test_metrics_are_those_asked_for_or_a_default(runs: list[Run], caplog: pytest.LogCaptureFixture) -> None:
    lines = collect(runs)
    assert metrics_of(lines, []) == ["exact_match"]
    assert metrics_of(lines, ["val/loss", "boxes.ap"]) == ["val/loss", "boxes.ap"]
    assert metrics_of(lines, ["boxes.app", "val/loss"]) == ["val/loss"]  # the results of long runs are not withheld
    assert metrics_of(lines, ["boxes.app"]) == ["exact_match"]
    assert "no run has the metric 'boxes.app'; did you mean 'boxes.ap'?" in caplog.text
    for line in lines:  # a run that was only trained, and one that has logged no loss
        for outcome in line.outcomes:
            outcome.figures = {"data/fill": 0.98, "train/loss": 1.0} if line is lines[0] else {"data/fill": 0.98}
    assert metrics_of(lines, []) == ["train/loss"]
    assert metrics_of(lines[1:], []) == []


def test_the_table_has_what_differs_and_what_failed(runs: list[Run], tmp_path: Path) -> None:
    lines = collect(runs)
    rows, notes = rows_of(lines, ["exact_match", "val/loss"]), notes_of(lines, ["exact_match"])
    assert rows[0] == {
        "run": "base", "exact_match": "55.0 % ± 5.0", "val/loss": "0.2742 ± 0.02503", "difference": "",
        "p questions": "", "p seeds": "",
        "parameters": "1,020", "FLOPs per step": "2.0 M", "tokens/s": "200", "seconds": "60", "runs": "3",
    }  # fmt: skip
    assert rows[1]["difference"] == "+25.0 %"
    assert rows[1]["p questions"] == f"{binomtest(30, 30).pvalue:.1e}"
    assert rows[1]["p seeds"] == f"{ttest_rel([30, 31, 35], [20, 22, 24]).pvalue:.3f}"
    assert rows[2]["runs"] == "1, 1 failed, 1 missing"
    assert "worse, seed 1 failed: mmcomponents: it broke" in notes
    assert notes[:3] == [
        "difference in exact_match from base",
        "p questions: McNemar's exact test of 40 or 120 answers; whether these checkpoints differ",
        "p seeds: paired t-test of 3 seeds; whether the variants differ",
    ]
    write_tables(rows, notes, lines, ["exact_match", "val/loss"], tmp_path)
    assert "| base | 55.0 % ± 5.0 |" in (tmp_path / "table.md").read_text()
    with (tmp_path / "table.csv").open(newline="") as file:
        plain = list(csv.DictReader(file))
    assert [row["run"] for row in plain] == ["base", "better", "worse"]
    assert float(plain[0]["exact_match"]) == pytest.approx(0.55)
    assert float(plain[0]["exact_match standard deviation"]) == pytest.approx(0.05)
    assert float(plain[1]["p questions"]) == pytest.approx(binomtest(30, 30).pvalue)
    assert [(row["parameters"], row["runs"], row["failed"], row["missing"]) for row in plain] == [
        ("1020", "3", "0", "0"),
        ("1030", "3", "0", "0"),
        ("1020", "1", "1", "1"),
    ]
    with (tmp_path / "runs.csv").open(newline="") as file:
        every = list(csv.DictReader(file))
    assert len(every) == 7
    assert (every[0]["seed"], every[0]["boxes.ap"], every[0]["parameters"]) == ("0", "0.2", "1020")
    console = table_console()
    with console.capture() as text:
        console.print(table_of(rows, lines, "title"))
    assert "55.0 % ± 5.0" in text.get()


def test_several_tests_are_lines_of_their_own_with_their_own_base(tmp_path: Path) -> None:
    tree = {"runs": {"a": {}, "b": {}}, "tests": {"short": {}, "long": {}}}
    runs = runs_of(make_ablation(tree, ["quickstart"], [], [], "0"), tmp_path)
    for number, run in enumerate(runs):
        for test in run.tests:
            only = Run(run.variant, run.seed, run.folder, {test: {}})
            answered(only, 10 + 5 * number + (10 if test == "long" else 0))
        write_state(run, State(run.settings(), run.recipe, True, {"short": {}, "long": {}}))
    lines = collect(runs)
    assert [line.name for line in lines] == ["a, short", "a, long", "b, short", "b, long"]
    rows = rows_of(lines, ["exact_match"])
    assert [row["exact_match"] for row in rows] == ["25.0 %", "50.0 %", "37.5 %", "62.5 %"]
    assert [row["difference"] for row in rows] == ["", "", "+12.5 %", "+12.5 %"]
    assert notes_of(lines, ["exact_match"])[0] == "difference in exact_match from a with the same test"
    assert [base.name for base in bases_of(lines)] == ["a, short", "a, long"] * 2


def test_training_that_failed_is_told_once_for_all_tests(tmp_path: Path) -> None:
    tree = {"runs": {"a": {}}, "tests": {"x": {}, "y": {}}}
    (run,) = runs_of(make_ablation(tree, ["quickstart"], [], [], "0"), tmp_path)
    write_state(run, State(run.settings(), run.recipe, error="broken"))
    assert notes_of(collect([run]), []) == ["a, seed 0 failed: broken"]
    write_state(run, State(run.settings(), run.recipe, True, {"x": {}}, test_errors={"y": "broken"}))
    assert notes_of(collect([run]), []) == ["a, y, seed 0 failed: broken"]


def test_tensorboards_tab_shows_what_differs_and_the_metric(runs: list[Run], tmp_path: Path) -> None:
    for _ in range(2):  # a second report replaces the first
        write_hparams(collect(runs), ["exact_match"], tmp_path / "tensorboard")
    own = tmp_path / "tensorboard" / "notes.txt"  # of somebody who has such a folder
    own.write_text("mine")
    write_hparams(collect(runs), ["exact_match"], tmp_path / "tensorboard")
    assert own.read_text() == "mine"
    groups = session_groups(tmp_path / "tensorboard")
    assert len(groups) == 7
    shown = {
        (group.hparams["run"].string_value, group.hparams["seed"].number_value): group.metric_values for group in groups
    }
    assert {key: round(value.value, 3) for key, (value,) in shown.items()} == {
        (name, seed): right / QUESTIONS
        for name, every in SHARES.items()
        for seed, right in enumerate(every)
        if name != "worse" or seed == 0
    }
    assert {value.name.tag for (value,) in shown.values()} == {"exact_match"}


def session_groups(folder: Path) -> Any:
    """Returns the rows of TensorBoard's HPARAMS tab."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    data = backend_context.Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(folder))))
    request, context = api_pb2.ListSessionGroupsRequest(slice_size=100, include_metrics=True), RequestContext()
    experiment = data.experiment_from_metadata(
        context, "", include_metrics=True, hparams_run_to_tag_to_content=data.hparams_metadata(context, ""),
        data_provider_hparams=data.hparams_from_data_provider(context, "", 100),
    )  # fmt: skip
    for metric in experiment.metric_infos:
        column = request.col_params.add()
        column.metric.CopyFrom(metric.name)
    request.allowed_statuses.extend([api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_RUNNING])
    handler = list_session_groups.Handler(context, backend_context=data, experiment_id="", request=request)
    return handler.run().session_groups


def test_a_diverged_run_and_damaged_files_leave_the_rest(runs: list[Run], caplog: pytest.LogCaptureFixture) -> None:
    logs = runs[1].folder / "lightning_logs" / "version_0" / "metrics.csv"
    logs.write_text("step,val/loss\n1,nan\n")
    (runs[0].folder / "boxes.json").write_text("{")
    (runs[0].folder / "answers.jsonl").write_text('{"key"')
    lines = collect(runs)
    rows = rows_of(lines, ["val/loss", "exact_match"])
    assert rows[1]["val/loss"] == "nan ± nan"
    assert rows[0]["exact_match"] == "57.5 % ± 3.5"
    assert caplog.text.count("is left out, since it cannot be read") == 2


def test_a_failed_test_leaves_the_others(tmp_path: Path) -> None:
    tree = {"runs": {"a": {}}, "tests": {"x": {}, "y": {}}}
    (run,) = runs_of(make_ablation(tree, ["quickstart"], [], [], "0"), tmp_path)
    answered(Run(run.variant, run.seed, run.folder, {"x": {}}), 10)
    write_state(run, State(run.settings(), run.recipe, True, {"x": {}}, test_errors={"y": "broken"}))
    assert [row["runs"] for row in rows_of(collect([run]), ["exact_match"])] == ["1", "0, 1 failed"]

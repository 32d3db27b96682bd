"""Table, Markdown, CSV, plot and TensorBoard's view of hyperparameters of an ablation."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from mmcomponents.cli.ablation.ablation_results import Compared, Line, compare, seconds, speed
from mmcomponents.cli.ablation.ablation_runs import Run
from mmcomponents.cli.terminal.plan_tables import short_number
from mmcomponents.cli.terminal.tables import cell
from mmcomponents.data.storage.atomic_write import write_text

_SHARES = ("exact_match", "boxes.ap", "report.exact_match")
"""Beginnings of metrics that are shares, shown in percent."""


def comparisons(lines: Sequence[Line], metric: str) -> dict[str, Compared]:
    """Returns each line's comparison with the base under the same test, by the line's name."""
    bases = {line.labels.get("test"): line for line in reversed(lines) if line.labels.get("test") is not None}
    found = {}
    for line in lines:
        base = bases.get(line.labels.get("test"), lines[0])
        if (compared := compare(line, base, metric)) is not None:
            found[line.name] = compared
    return found


def rows_of(lines: Sequence[Line], metrics: Sequence[str]) -> list[dict[str, str]]:
    """Returns the table as texts: what differs, the metrics, the comparison of the first one, and costs.

    Columns that are empty in all rows are left out.
    """
    compared = comparisons(lines, metrics[0]) if metrics else {}
    axes = list(dict.fromkeys(axis for line in lines for axis in line.labels))
    rows = []
    for line in lines:
        row = {axis: line.labels.get(axis, "") for axis in axes}
        for metric in metrics:
            row[metric] = _mean(line, metric)
        found = compared.get(line.name)
        row["difference"] = "" if found is None or not metrics else figure(metrics[0], found.difference, signed=True)
        row["p questions"] = "" if found is None else _probability(found.p_questions)
        row["p seeds"] = "" if found is None else _probability(found.p_seeds)
        row["parameters"] = _whole(line.cost("parameters"))
        row["trainable"] = _whole(line.cost("trainable"))
        row["FLOPs per step"] = "" if line.cost("flops") is None else short_number(int(line.cost("flops") or 0))
        row["tokens/s"] = _whole(speed(line))
        row["seconds"] = _whole(seconds(line))
        row["runs"] = str(len(line.outcomes)) + "".join(
            f", {len(found)} {word}" for found, word in ((line.failed, "failed"), (line.missing, "missing")) if found
        )
        rows.append(row)
    if all(row["trainable"] == row["parameters"] for row in rows):
        rows = [{name: text for name, text in row.items() if name != "trainable"} for row in rows]
    kept = [name for name in rows[0] if any(row[name] for row in rows)]
    return [{name: row[name] for name in kept} for row in rows]


def figure(metric: str, value: float, signed: bool = False) -> str:
    """Returns a value as a text; shares in percent."""
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f} %" if metric.startswith(_SHARES) else f"{value:{sign}.4g}"


def table_of(rows: Sequence[Mapping[str, str]], lines: Sequence[Line], title: str) -> Table:
    """Returns the table for a terminal."""
    axes = {axis for line in lines for axis in line.labels}
    table = Table(title=cell(title))
    for name in rows[0]:
        table.add_column(cell(name), justify="left" if name in axes or name == "runs" else "right")
    for row in rows:
        table.add_row(*(cell(text) for text in row.values()))
    return table


def notes_of(lines: Sequence[Line], metrics: Sequence[str]) -> list[str]:
    """Returns what belongs below the table: what was tested, and the runs that failed."""
    notes = []
    if metrics:
        compared = comparisons(lines, metrics[0])
        notes.append(f"difference in {metrics[0]} from {lines[0].name}")
        questions = sorted({found.questions for found in compared.values() if found.p_questions is not None})
        paired = sorted({found.seeds for found in compared.values() if found.p_seeds is not None})
        if questions:
            counts = " or ".join(f"{count:,}" for count in questions)
            notes.append(f"p questions: McNemar's exact test of {counts} answers; whether these checkpoints differ")
        if paired:
            counts = " or ".join(map(str, paired))
            notes.append(f"p seeds: paired t-test of {counts} seeds; whether the variants differ")
        if not lines[0].outcomes and any(line.outcomes for line in lines):
            notes.append(f"nothing is compared: no run of the base {lines[0].name} has ended")
    if any(line.spread(metric) is not None for line in lines for metric in metrics):
        notes.append("± is the standard deviation over seeds")
    for line in lines:
        for error in dict.fromkeys(line.failed.values()):
            seeds = [str(seed) for seed, found in line.failed.items() if found == error]
            notes.append(f"{line.name}, seed{'s' if seeds[1:] else ''} {', '.join(seeds)} failed: {error}")
    return notes


def write_tables(rows: Sequence[Mapping[str, str]], notes: Sequence[str], lines: Sequence[Line], out: Path) -> None:
    """Writes `table.md`, `table.csv` and `runs.csv`, which has all figures of each run."""
    write_text(out / "table.md", _markdown(rows) + "".join(f"\n{note}\n" for note in notes))
    write_text(out / "table.csv", _csv([dict(row) for row in rows]))
    every: list[dict[str, Any]] = []
    for line in lines:
        for outcome in line.outcomes:
            costs = {name: value for name, value in outcome.state.cost.items() if name != "error"}
            own = {**line.labels, "seed": outcome.seed, **costs, "seconds": round(outcome.state.seconds, 1)}
            every.append(own | outcome.figures)
    if every:
        write_text(out / "runs.csv", _csv(every))


def write_hparams(runs: Sequence[Run], lines: Sequence[Line], metrics: Sequence[str]) -> None:
    """Writes what differs and the metrics of each run for TensorBoard's HPARAMS tab."""
    from torch.utils.tensorboard.summary import hparams, scalar
    from torch.utils.tensorboard.writer import FileWriter

    done = {(line.name, outcome.seed): (line, outcome) for line in lines for outcome in line.outcomes}
    for run in runs:
        for test in run.tests:
            name = f"{run.variant.name}, {test}" if len(run.tests) > 1 else run.variant.name
            if (name, run.seed) not in done:
                continue
            line, outcome = done[name, run.seed]
            values = {f"hparam/{metric}": outcome.figures[metric] for metric in metrics if metric in outcome.figures}
            folder = run.test_folder(test) / "hparams"
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
            writer = FileWriter(str(folder))
            for event in hparams({**line.labels, "seed": run.seed}, values):
                writer.add_summary(event)
            for key, value in values.items():
                writer.add_summary(scalar(key, value), 0)
            writer.close()


def _probability(p: float | None) -> str:
    if p is None:
        return ""
    if p < 1e-300:
        return "<1e-300"  # as a float it may be zero
    return f"{p:.1e}" if p < 0.001 else f"{p:.3f}"


def _mean(line: Line, metric: str) -> str:
    mean, spread = line.mean(metric), line.spread(metric)
    if mean is None:
        return ""
    return figure(metric, mean) + ("" if spread is None else f" ± {figure(metric, spread).removesuffix(' %')}")


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _markdown(rows: Sequence[Mapping[str, str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in cells) + " |\n"

    return line([*rows[0]]) + line(["---"] * len(rows[0])) + "".join(line([*row.values()]) for row in rows)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

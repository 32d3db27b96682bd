"""Table, Markdown, CSV, plot and TensorBoard's view of hyperparameters of an ablation."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from mmcomponents.cli.ablation.ablation_results import Compared, Line, compare, seconds, speed
from mmcomponents.cli.ablation.ablation_spec import file_name
from mmcomponents.cli.terminal.plan_tables import short_number
from mmcomponents.cli.terminal.tables import cell
from mmcomponents.data.storage.atomic_write import write_text

_SHARES = ("exact_match", "boxes.ap", "report.exact_match")
"""Beginnings of metrics that are shares, shown in percent."""


def comparisons(lines: Sequence[Line], metric: str) -> dict[str, Compared]:
    """Returns each line's comparison with the base under the same test, by the line's name."""
    found = {line.name: compare(line, base, metric) for line, base in zip(lines, bases_of(lines), strict=True)}
    return {name: compared for name, compared in found.items() if compared is not None}


def bases_of(lines: Sequence[Line]) -> list[Line]:
    """Returns for each line that of the base, the first variant, under the same test."""
    by_test = {line.labels.get("test"): line for line in reversed(lines)}
    return [by_test[line.labels.get("test")] for line in lines]


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
        row["parameters"] = _whole(line.cost.get("parameters"))
        row["trainable"] = _whole(line.cost.get("trainable"))
        row["FLOPs per step"] = "" if line.cost.get("flops") is None else short_number(line.cost["flops"])
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
        same = " with the same test" if len({line.labels.get("test") for line in lines}) > 1 else ""
        notes.append(f"difference in {metrics[0]} from {lines[0].variant}{same}")
        questions = sorted({found.questions for found in compared.values() if found.p_questions is not None})
        paired = sorted({found.seeds for found in compared.values() if found.p_seeds is not None})
        if questions:
            counts = " or ".join(f"{count:,}" for count in questions)
            notes.append(f"p questions: McNemar's exact test of {counts} answers; whether these checkpoints differ")
        if paired:
            counts = " or ".join(map(str, paired))
            notes.append(f"p seeds: paired t-test of {counts} seeds; whether the variants differ")
        if not lines[0].outcomes and any(line.outcomes for line in lines):
            notes.append(f"nothing is compared: no run of the base {lines[0].variant} has ended")
    if any(line.spread(metric) is not None for line in lines for metric in metrics):
        notes.append("± is the standard deviation over seeds")
    failed: dict[tuple[str, str], dict[int, list[Line]]] = {}
    for line in lines:
        for seed, error in line.failed.items():
            failed.setdefault((line.variant, error), {}).setdefault(seed, []).append(line)
    for (variant, error), found in failed.items():
        seeds, own = [str(seed) for seed in found], next(iter(found.values()))
        name = own[0].name if len(own) == 1 else variant  # training failed, and with it all tests
        notes.append(f"{name}, seed{'s' if seeds[1:] else ''} {', '.join(seeds)} failed: {error}")
    return notes


def write_tables(
    rows: Sequence[Mapping[str, str]],
    notes: Sequence[str],
    lines: Sequence[Line],
    metrics: Sequence[str],
    out: Path,
) -> None:
    """Writes `table.md`, `table.csv` with the same as plain numbers, and `runs.csv` with all figures of each run."""
    write_text(out / "table.md", _markdown(rows) + "".join(f"\n{note}\n" for note in notes))
    write_text(out / "table.csv", _csv(_numbers(lines, metrics)))
    every: list[dict[str, Any]] = []
    for line in lines:
        for outcome in line.outcomes:
            own = {**line.labels, "seed": outcome.seed, **_costs(line), "seconds": round(outcome.state.seconds, 1)}
            every.append(own | outcome.figures)
    if every:
        write_text(out / "runs.csv", _csv(every))


def write_hparams(lines: Sequence[Line], metrics: Sequence[str], folder: Path) -> None:
    """Writes what differs and the metrics of each run for TensorBoard's HPARAMS tab.

    They need a folder of their own: beside the events of the runs, the tab would show the columns that Lightning's
    logger has declared there, all hyperparameters and no metric.

    Args:
        lines: Lines of the table.
        metrics: Metrics of the table.
        folder: Folder for `tensorboard --logdir`. What an earlier report has written there is replaced.
    """
    from torch.utils.tensorboard.summary import hparams, scalar
    from torch.utils.tensorboard.writer import FileWriter

    for old in folder.glob("*/seed-*/events.out.tfevents.*"):
        old.unlink()
    for line in lines:
        for outcome in line.outcomes:
            values = {metric: outcome.figures[metric] for metric in metrics if metric in outcome.figures}
            writer = FileWriter(str(folder / file_name(line.name) / f"seed-{outcome.seed}"))
            for event in hparams({**line.labels, "seed": outcome.seed}, values):
                writer.add_summary(event)
            for key, value in values.items():
                writer.add_summary(scalar(key, value), 0)
            writer.close()


def _numbers(lines: Sequence[Line], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the table as numbers, without columns that are empty in all rows."""
    compared = comparisons(lines, metrics[0]) if metrics else {}
    rows: list[dict[str, Any]] = []
    for line in lines:
        row: dict[str, Any] = dict(line.labels)
        for metric in metrics:
            row |= {metric: line.mean(metric), f"{metric} standard deviation": line.spread(metric)}
        found = compared.get(line.name)
        for name in ("difference", "p_questions", "p_seeds", "questions"):
            row[name.replace("_", " ")] = getattr(found, name, None)
        row |= {**_costs(line), "tokens_per_second": speed(line), "seconds": seconds(line)}
        rows.append(row | {"runs": len(line.outcomes), "failed": len(line.failed), "missing": len(line.missing)})
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name) for name in names if any(r.get(name) is not None for r in rows)} for row in rows]


def _costs(line: Line) -> dict[str, Any]:
    return {name: value for name, value in line.cost.items() if name != "error"}


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

"""Tables of an evaluation."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from mmcomponents.cli.terminal.tables import cell


def figures_table(report: dict[str, Any]) -> Table:
    """Returns a table with the figure of each selector at N = 1, 2, 4, … and the largest N, with its interval."""
    samples = report["samples"]
    shown = [count for count in (2**power for power in range(samples.bit_length())) if count < samples] + [samples]
    table = Table(
        "selector", title=cell(f"{report['metric']} on {report['benchmark']}, {report['questions']} questions")
    )
    for count in shown:
        table.add_column(f"N = {count}", justify="right", no_wrap=True)
    last = str(samples)
    with_interval = all("low" in by_count[last] for by_count in report["figures"].values())
    if with_interval:
        table.add_column(f"95 % interval at N = {samples}", justify="right", no_wrap=True)
    for name, by_count in report["figures"].items():
        cells = [f"{by_count[str(count)]['value']:.1%}" for count in shown]
        if with_interval:
            cells.append(f"{by_count[last]['low']:.1%} to {by_count[last]['high']:.1%}")
        table.add_row(name.replace("_", " "), *cells)
    return table


def category_table(report: dict[str, Any]) -> Table:
    """Returns a table with the questions of each category and the figure of each selector at the largest N."""
    last = str(report["samples"])
    table = Table("category", title=f"{report['metric']} by category, N = {last}")
    table.add_column("questions", justify="right")
    for name in report["figures"]:
        table.add_column(name.replace("_", " "), justify="right")
    for category, part in report["by_category"].items():
        values = [f"{by_count[last]['value']:.1%}" for by_count in part["figures"].values()]
        table.add_row(cell(category or "none"), str(part["questions"]), *values)
    return table

"""`mmcomponents data pack`: annotations and their media become shards."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from mmcomponents.cli.data_index import inputs_first
from mmcomponents.cli.errors import UserError, one_line
from mmcomponents.cli.tables import table_console
from mmcomponents.registry import near

if TYPE_CHECKING:
    from mmcomponents.data.annotations import PackReport
    from mmcomponents.data.annotations.state import Totals

LINE = "make shards of annotations: InternVL's, MMPR's, chat messages, plain texts"

SWITCHES = {
    "allow_outside_root": "allow paths of media that leave the root",
    "overwrite": "replace what an earlier call with other settings or inputs has packed into the folder",
}
"""Flags without a value, and their help."""

_COLUMNS = {
    "samples": "samples",
    "refused": "refused",
    "pieces": "pieces",
    "tokens": "tokens",
    "tiles": "tiles",
    "size": "bytes",
}
"""Heads of the table, and the counts below them; `pack.json` has more, which would not fit into 80 columns."""


def main(verb: str, argv: list[str]) -> int:
    """Entry of the verb."""
    from mmcomponents.data.annotations import pack_annotations
    from mmcomponents.data.errors import DataError

    parser = ArgumentParser(
        prog=f"mmcomponents {verb} pack",
        usage=f"mmcomponents {verb} pack INPUT [INPUT ...] --out FOLDER --tokenizer FOLDER [options]",
        description=f"{LINE[0].upper()}{LINE[1:]}. What cannot be used is listed with its reason, and nothing is cut.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="annotation files (.jsonl), meta files (.json), text files (.txt), folders or patterns of these",
    )
    skip: set[str | int] = {"inputs", "progress", *SWITCHES}
    names = parser.add_function_arguments(pack_annotations, as_positional=False, skip=skip)
    for name, text in SWITCHES.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    names += SWITCHES
    try:
        options = parser.instantiate_classes(parser.parse_args(inputs_first(argv, [f"--{name}" for name in SWITCHES])))
    except argparse.ArgumentError as error:
        text = one_line(str(error))
        wrong = text.partition("unrecognized arguments: --")[2].partition(" ")[0].partition("=")[0]
        raise UserError(f"{verb} pack: {text}{near(wrong, names) if wrong else ''}") from None
    try:
        with _bar() as bar:
            task = bar.add_task("pack", total=None)
            report = pack_annotations(
                options["inputs"],
                **{name: options[name] for name in names},
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except (ValueError, OSError, DataError) as error:
        raise UserError(f"{verb} pack: {' '.join(str(error).split())}") from error
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; the same command goes on from here", markup=False)
        raise
    _close(report, table_console())
    if not report.totals.samples:
        why = f"no sample can be used; {report.out / 'refused.jsonl'} says why of each"
        raise UserError(f"{verb} pack: {why if report.codes else 'there is no sample in the inputs'}")
    return 0


def _bar() -> Progress:
    """A bar over the bytes of the input, on standard error; none where that is no terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(*columns, *times, console=console, transient=True, disable=not console.is_terminal)


def _close(report: PackReport, console: Console) -> None:
    """What was packed, what was not, and what to do with it."""
    console.print(_samples(report))
    if report.codes:
        console.print(_refusals(report))
    for note in report.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    files = ["pack.json", "recipe.yaml", *(["refused.jsonl"] if report.codes else [])]
    shards = report.totals.shards
    written = "1 shard with its index" if shards == 1 else f"{shards:,} shards with their indices"
    earlier = f" ({report.found:,} finished before)" if report.found else ""
    lines = [f"{report.out}: {written}{earlier}, {', '.join(files)}"]
    if report.totals.samples:
        lines.append(f"{report.out / 'recipe.yaml'} has the lines for a recipe's data section")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _samples(report: PackReport) -> Table:
    total = report.totals
    # what there is none of needs no column
    heads = [head for head in _COLUMNS if head in ("samples", "refused") or getattr(total, _COLUMNS[head])]
    table = Table(Column("source", overflow="fold"))
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    rows = [(name, source.totals) for name, source in report.sources.items()]
    for name, totals in rows:
        table.add_row(escape(name), *_row(totals, heads))
    if len(rows) > 1:
        table.add_section()
        table.add_row("all", *_row(total, heads))
    return table


def _row(totals: Totals, heads: list[str]) -> list[str]:
    counts = {head: getattr(totals, _COLUMNS[head]) for head in heads}
    return [_size(count) if head == "size" else f"{count:,}" for head, count in counts.items()]


def _size(count: int) -> str:
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"


def _refusals(report: PackReport) -> Table:
    table = Table("refused because of")
    table.add_column("samples", justify="right")
    table.add_column("the first one", overflow="fold")
    for code, count in report.codes.items():
        example = report.examples[code]
        first = f"{example['file']}:{example['line']}: {example['reason']}"
        table.add_row(code, f"{count:,}", escape(first))
    return table

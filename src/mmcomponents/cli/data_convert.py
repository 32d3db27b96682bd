"""`mmcomponents data convert`: converts annotations and their media to shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import DownloadColumn
from rich.table import Column, Table

from mmcomponents.cli.data import KINDS
from mmcomponents.cli.data_index import inputs_first
from mmcomponents.cli.terminal.parser import add_kinds_option, add_tokens_option, parse_function_flags
from mmcomponents.cli.terminal.progress_bar import progress_bar
from mmcomponents.cli.terminal.tables import cell, print_line, table_console
from mmcomponents.cli.user_error import UserError, errors_in_one_line

if TYPE_CHECKING:
    from mmcomponents.data.convert import ConversionReport
    from mmcomponents.data.convert.resume_state import Totals

_LINE = KINDS["convert"][1]

SWITCHES = {
    "keep_unknown_keys": "keep keys that are neither used nor known to be harmless, instead of skipping the samples",
    "allow_outside_root": "allow media paths outside the root",
    "overwrite": "replace shards in the folder that were written with other settings or inputs",
}
"""Flags without a value -> their help."""

_COLUMNS = {
    "samples": "samples",
    "skipped": "refused",
    "pieces": "pieces",
    "tokens": "tokens",
    "tiles": "tiles",
    "size": "bytes",
}
"""Heading of a table column -> attribute of `Totals`. `pack.json` has more counts, which do not fit into 80 columns."""


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    from mmcomponents.data.convert import convert_annotations

    parser = ArgumentParser(
        prog=f"mmcomponents {verb} convert",
        usage=f"mmcomponents {verb} convert INPUT [INPUT ...] --out FOLDER --tokenizer FOLDER [options]",
        description=f"{_LINE[0].upper()}{_LINE[1:]}. Skipped samples are listed with the reason; nothing is truncated.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="annotation files (.jsonl, .json, .parquet), meta files (.json), text files (.txt), folders, also those "
        "of the library datasets, or glob patterns of these; they come first",
    )
    skip: set[str | int] = {"inputs", "kinds", "allowed_tokens", "progress", *SWITCHES}
    names = parser.add_function_arguments(convert_annotations, as_positional=False, skip=skip)
    names += [add_kinds_option(parser), add_tokens_option(parser)]
    for name, text in SWITCHES.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    names += SWITCHES
    words = inputs_first(argv, [f"--{name}" for name in SWITCHES])
    options = parse_function_flags(parser, words, names, f"{verb} convert")
    try:
        with errors_in_one_line(f"{verb} convert"), progress_bar(DownloadColumn()) as bar:
            task = bar.add_task("convert", total=None)
            report = convert_annotations(
                options["inputs"],
                **{name: options[name] for name in names},
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; run the same command again to resume", markup=False)
        raise
    _close(report, table_console())
    if not report.totals.samples:
        why = f"all samples were skipped; {report.out / 'refused.jsonl'} lists the reasons"
        raise UserError(f"{verb} convert: {why if report.codes else 'the inputs contain no samples'}")
    return 0


def _close(report: ConversionReport, console: Console) -> None:
    """Prints the counts, the skipped samples and the files that were written."""
    console.print(_samples(report))
    if report.codes:
        console.print(_skipped(report))
    for note in report.notes:
        print_line(console, f"note: {note}")
    files = ["pack.json", "recipe.yaml", *(["refused.jsonl"] if report.codes else [])]
    shards = report.totals.shards
    written = "1 shard with its index" if shards == 1 else f"{shards:,} shards with their indices"
    earlier = f" ({report.found:,} from an earlier call)" if report.found else ""
    lines = [f"{report.out}: {written}{earlier}, {', '.join(files)}"]
    if report.totals.samples:
        lines.append(f"{report.out / 'recipe.yaml'} contains the data section of a recipe")
    for line in lines:
        print_line(console, line)


def _samples(report: ConversionReport) -> Table:
    total = report.totals
    # Columns of zeros are left out.
    heads = [head for head in _COLUMNS if head in ("samples", "skipped") or getattr(total, _COLUMNS[head])]
    table = Table(Column("source", overflow="fold"))
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    rows = [(name, source.totals) for name, source in report.sources.items()]
    for name, totals in rows:
        table.add_row(cell(name), *_row(totals, heads))
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


def _skipped(report: ConversionReport) -> Table:
    table = Table("skipped because of")
    table.add_column("samples", justify="right")
    table.add_column("first sample", overflow="fold")
    for code, count in report.codes.items():
        example = report.examples[code]
        image = f" ({example['image']})" if "image" in example else ""
        first = f"{example['file']}:{example['line']}{image}: {example['reason']}"
        table.add_row(code, f"{count:,}", cell(first))
    return table

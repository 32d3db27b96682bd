"""`mmcomponents data index`: writes the index of shards, and reports usable and skipped samples with reasons."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Column, Table

from mmcomponents.cli.data import KINDS
from mmcomponents.cli.terminal.parser import add_kinds_option, add_tokens_option, parse_function_flags
from mmcomponents.cli.terminal.progress_bar import progress_bar
from mmcomponents.cli.terminal.tables import cell, print_line, table_console
from mmcomponents.cli.user_error import UserError, errors_in_one_line

if TYPE_CHECKING:
    from mmcomponents.data.format.indexing import IndexReport

_LISTS = ("--kinds", "--allowed_tokens")
_LISTED = 20
"""Most reasons, and most shards without an index, that are listed."""


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    from mmcomponents.data.format import indexing

    command = f"{verb} index"
    parser = ArgumentParser(
        prog=f"mmcomponents {command}",
        usage=f"mmcomponents {command} SHARDS [SHARDS ...] --tokenizer FOLDER [options]",
        description=KINDS["index"][1],
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="+", metavar="SHARDS", help="shards, glob patterns, or folders; they come first")
    skip: set[str | int] = {"paths", "kinds", "allowed_tokens", "progress"}
    names = ["paths", *parser.add_function_arguments(indexing.index_shards, as_positional=False, skip=skip)]
    names += [add_kinds_option(parser), add_tokens_option(parser)]
    options = parse_function_flags(parser, inputs_first(argv), names, command)
    with errors_in_one_line(command), progress_bar() as bar:
        task = bar.add_task("index", total=None)
        report = indexing.index_shards(
            **{name: options[name] for name in names},
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    return close(report, table_console(), command)


def inputs_first(argv: Sequence[str], switches: Collection[str] = ()) -> list[str]:
    """Moves the inputs before the flags, as argparse accepts no positional arguments after a flag.

    Args:
        argv: Words after the verb.
        switches: Flags without a value, such as `--overwrite`. `--kinds` and `--allowed_tokens` take all words up to
            the next flag, any other flag the next word, or the text after its `=`.
    """
    inputs, flags, words = list[str](), list[str](), list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "-":
            inputs.append(word)
            continue
        flags.append(word)
        if word.startswith("--") and "=" not in word and word not in (*switches, "--help"):
            flags += words[:1]
            del words[:1]
            while word in _LISTS and words and not words[0].startswith("-"):
                flags.append(words.pop(0))
    return [*inputs, *flags]


def close(report: IndexReport, console: Console, command: str) -> int:
    """Prints the counts; returns the exit code, which is 1 if a shard was not indexed and another one was.

    Raises:
        UserError: No sample can be used.
    """
    bad = report.reasons.samples
    shards = f"{len(report.paths):,} shard{'' if len(report.paths) == 1 else 's'}"
    lines = [f"indexed {shards}: {report.samples:,} samples, {report.samples - bad:,} usable, {bad:,} skipped"]
    lines += [f"note: {note}" for note in report.notes]
    for line in lines:
        print_line(console, line)
    if bad:
        console.print(_reasons(report))
    if report.failed:
        console.print(_failed(report))
    if report.samples == bad:
        hint = "; --kinds names the record kinds of other packages" if bad else ""
        raise UserError(f"{command}: no sample can be used{hint}")
    return 1 if report.failed else 0


def _reasons(report: IndexReport) -> Table:
    table = Table(
        Column("skipped because of", overflow="fold"),
        Column("samples", justify="right"),
        Column("first sample", overflow="fold"),
    )
    reasons = report.reasons.listed()
    for reason in reasons[:_LISTED]:
        table.add_row(cell(reason.reason), f"{reason.samples:,}", cell(reason.first))
    if rest := reasons[_LISTED:]:
        table.add_row(f"{len(rest):,} more reasons", f"{sum(reason.samples for reason in rest):,}", "")
    return table


def _failed(report: IndexReport) -> Table:
    table = Table(Column("shard that was not indexed", overflow="fold"), Column("reason", overflow="fold"))
    for shard, reason in report.failed[:_LISTED]:
        # Most reasons begin with the name of the shard, which is in the first column.
        table.add_row(cell(shard), cell(reason.removeprefix(shard).strip()))
    if (rest := len(report.failed) - _LISTED) > 0:
        table.add_row(f"{rest:,} more", "")
    return table

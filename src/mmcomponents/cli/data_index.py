"""What `mmcomponents data index` says at its end: what can be used, what cannot, and why."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from mmcomponents.data.indexing import IndexReport

_LISTED = 20
"""Reasons, and shards without an index, that are listed."""


def inputs_first(argv: Sequence[str], switches: Collection[str] = ()) -> list[str]:
    """Moves the inputs before the flags: argparse takes no more of them once a flag has come.

    Args:
        argv: What stands behind the verb.
        switches: Flags without a value, as `--overwrite`; any other takes the word behind it, or one behind its `=`.
    """
    inputs, flags, words = list[str](), list[str](), iter(argv)
    for word in words:
        if not word.startswith("-") or word == "-":
            inputs.append(word)
            continue
        flags.append(word)
        if word.startswith("--") and "=" not in word and word not in (*switches, "--help"):
            flags += [value for value in [next(words, None)] if value is not None]
    return [*inputs, *flags]


def close(report: IndexReport, console: Console) -> int:
    """Prints the counts; returns the exit code, 1 where a shard has no index."""
    from mmcomponents.data.inspection.text import plain  # not before: it brings torch

    bad = report.reasons.samples
    shards = f"{len(report.paths):,} shard{'' if len(report.paths) == 1 else 's'}"
    lines = [f"indexed {shards}: {report.samples:,} samples, {report.samples - bad:,} can be used, {bad:,} cannot"]
    lines += [f"note: {plain(note)}" for note in report.notes]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if bad:
        console.print(_reasons(report))
    if report.failed:
        console.print(_failed(report))
    return 1 if report.failed else 0


def _reasons(report: IndexReport) -> Table:
    from mmcomponents.data.inspection.text import plain

    table = Table(
        Column("cannot be used because of", overflow="fold"),
        Column("samples", justify="right"),
        Column("the first", overflow="fold"),
    )
    found = report.reasons.listed()
    for row in found[:_LISTED]:
        table.add_row(Text(plain(row.reason)), f"{row.samples:,}", Text(plain(row.first)))
    if rest := found[_LISTED:]:
        table.add_row(f"{len(rest):,} more reasons", f"{sum(row.samples for row in rest):,}", "")
    return table


def _failed(report: IndexReport) -> Table:
    from mmcomponents.data.inspection.text import plain

    table = Table(Column("shard without an index", overflow="fold"), Column("because", overflow="fold"))
    for shard, reason in report.failed[:_LISTED]:
        # Most reasons name the shard, which stands beside them.
        table.add_row(Text(plain(shard)), Text(plain(reason.removeprefix(shard).strip())))
    if (rest := len(report.failed) - _LISTED) > 0:
        table.add_row(f"{rest:,} more", "")
    return table

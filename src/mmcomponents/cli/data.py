"""`mmcomponents data`: makes the handwriting data set, or the index of shards."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mmcomponents.cli import data_inspect, data_pack, data_preferences, data_steps
from mmcomponents.cli.errors import UserError, one_line
from mmcomponents.cli.tables import table_console
from mmcomponents.registry import near

KINDS = {
    "handwriting": "write a small data set of real handwritten digits as shards",
    "ladder": "write the handwriting that `make ladder` climbs on, a part for each rung",
    "index": "write the index of shards: tokens, tiles and place of each sample",
    "pack": data_pack.LINE,
    "inspect": data_inspect.LINE,
    "preferences": data_preferences.LINE,
    "steps": data_steps.LINE,
}

_OWN = {
    "pack": data_pack.main,
    "inspect": data_inspect.main,
    "preferences": data_preferences.main,
    "steps": data_steps.main,
}
"""Kinds that read their own flags."""


def functions() -> dict[str, Callable[..., Any]]:
    """Kind -> the function behind it, whose arguments are the flags."""
    from mmcomponents.data import index_shards, make_handwriting
    from mmcomponents.data.handwriting_ladder import make_handwriting_ladder

    return {"handwriting": make_handwriting, "ladder": make_handwriting_ladder, "index": index_shards}


def main(verb: str, argv: list[str]) -> int:
    """Entry of the verb."""
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {kind:12} {line}" for kind, line in KINDS.items()]
        Console().print("\n".join([f"usage: mmcomponents {verb} KIND [options]", "", *lines]), markup=False)
        return 0 if argv else 2
    kind, rest = argv[0], argv[1:]
    if kind not in KINDS:
        raise UserError(f"{verb}: no kind {kind!r}{near(kind, KINDS)}; there are {', '.join(KINDS)}")
    if kind in _OWN:
        return _OWN[kind](verb, rest)
    parser = ArgumentParser(
        prog=f"mmcomponents {verb} {kind}", description=KINDS[kind], exit_on_error=False, allow_abbrev=False
    )
    from mmcomponents.cli.data_index import close, inputs_first
    from mmcomponents.data.errors import DataError
    from mmcomponents.data.indexing import IndexReport

    call = functions()[kind]
    shows_progress = "progress" in inspect.signature(call).parameters
    names = ["paths"] if kind == "index" else []
    if names:
        parser.add_argument("paths", nargs="+", metavar="SHARDS", help="shards, patterns of them, or folders")
    skip: set[str | int] = {*names, "progress"} if shows_progress else set(names)
    names += parser.add_function_arguments(call, as_positional=False, skip=skip)
    try:
        options = parser.instantiate_classes(parser.parse_args(inputs_first(rest) if kind == "index" else rest))
    except argparse.ArgumentError as error:
        text = one_line(str(error))
        wrong = text.partition("unrecognized arguments: --")[2].partition(" ")[0].partition("=")[0]
        raise UserError(f"{verb} {kind}: {text}{near(wrong, names) if wrong else ''}") from None
    arguments = {name: options[name] for name in names}
    try:
        with _bar() as bar:
            task = bar.add_task(kind, total=None)
            if shows_progress:
                arguments["progress"] = lambda done, total: bar.update(task, completed=done, total=total)
            result = call(**arguments)
    except (ValueError, OSError, DataError, ModuleNotFoundError) as error:
        raise UserError(f"{verb} {kind}: {' '.join(str(error).split())}") from error
    if isinstance(result, IndexReport):
        return close(result, table_console())
    for line in result if isinstance(result, list) else [] if result is None else [result]:
        Console().print(str(line), markup=False, highlight=False, soft_wrap=True)
    return 0


def _bar() -> Progress:
    """A bar on standard error that leaves nothing behind; none where that is no terminal."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)

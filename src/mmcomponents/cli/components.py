"""`mmcomponents components`: what can be put into a slot.

The listing reads source files and package metadata and imports no part. `--arguments` and `--json` import
the parts they describe.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
import warnings
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from mmcomponents import registry
from mmcomponents.cli.errors import UserError

_PIPE_WIDTH = 160
"""Columns where the output is no terminal: wide enough for a part a line, so that `grep` works."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def main(verb: str, argv: list[str]) -> int:
    """Entry of the verb."""
    parser = _Parser(prog=f"mmcomponents {verb}", description="List the parts for each slot.", allow_abbrev=False)
    parser.add_argument("slot", nargs="?", help=f"one of {', '.join(registry.slots())}; default: all")
    parser.add_argument(
        "--json", action="store_true", help="print JSON, with arguments and defaults (imports the parts)"
    )
    parser.add_argument("--arguments", action="store_true", help="add arguments and defaults (imports the parts)")
    options = parser.parse_args(argv)
    try:
        detailed = options.arguments or options.json
        chosen = [options.slot] if options.slot else list(registry.slots())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rows = [_row(part, detailed) for slot in chosen for part in registry.available(slot)]
    except registry.PartError as error:
        raise UserError(str(error)) from None
    for line in dict.fromkeys(str(warning.message) for warning in caught):
        sys.stderr.write(f"mmcomponents: {line}\n")
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        _show(rows, options.arguments)
    return 0


def _row(part: registry.Part, arguments: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "slot": part.slot,
        "name": part.name,
        "package": part.package,
        "path": part.path,
        "summary": part.summary(),
    }
    if arguments:
        row["arguments"] = _arguments(part)
    return row


def _arguments(part: registry.Part) -> dict[str, str] | None:
    """Argument -> default as it is written, empty without one; None for a part that cannot be imported."""
    module, _, name = part.path.rpartition(".")
    try:
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    except Exception as error:  # another package's code: its failure must not end the listing
        warnings.warn(f"{part.package}: cannot import {part.path}: {type(error).__name__}: {error}", stacklevel=2)
        return None
    return {key: "" if p.default is p.empty else repr(p.default) for key, p in parameters.items()}


def _show(rows: list[dict[str, Any]], arguments: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("slot", "name", "package", "what it is"):
        table.add_column(title, no_wrap=title != "what it is", overflow="fold")
    for row in rows:
        text = row["summary"]
        if arguments and row["arguments"] is not None:
            text += "\n" + ", ".join(f"{k}={v}" if v else k for k, v in row["arguments"].items())
        table.add_row(row["slot"], row["name"], row["package"], text)
    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(table if rows else "no parts", markup=False)

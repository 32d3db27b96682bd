"""`mmcomponents components`: lists the parts that are available for each slot.

The listing reads source files and package metadata and imports no part. `--arguments` and `--json` import
the parts they describe.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import sys
import warnings
from collections import Counter
from typing import Any

from rich.table import Table

from mmcomponents import registry
from mmcomponents.cli.terminal.parser import Parser
from mmcomponents.cli.terminal.tables import table_console
from mmcomponents.cli.user_error import UserError


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    parser = Parser(prog=f"mmcomponents {verb}", description="List the parts for each slot.", allow_abbrev=False)
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
            found = [part for slot in chosen for part in registry.available(slot)]
            parts = [_description(part, detailed) for part in found]
            _tell_shared_names(found)
    except registry.PartError as error:
        raise UserError(str(error)) from None
    for line in dict.fromkeys(str(warning.message) for warning in caught):
        sys.stderr.write(f"mmcomponents: {line}\n")
    if options.json:
        sys.stdout.write(json.dumps(parts, indent=2) + "\n")
    else:
        _show(parts, options.arguments)
    return 0


def _description(part: registry.Part, arguments: bool) -> dict[str, Any]:
    description: dict[str, Any] = {
        "slot": part.slot,
        "name": part.name,
        "package": part.package,
        "version": _version(part.package),
        "path": part.path,
        "summary": part.summary(),
    }
    if arguments:
        description["arguments"] = _arguments(part)
    return description


def _version(package: str) -> str:
    """Returns the version of a distribution; empty if it has no metadata."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _arguments(part: registry.Part) -> dict[str, str] | None:
    """Returns argument -> repr of its default, empty if it has none; None for a part that cannot be used."""
    try:
        parameters = inspect.signature(registry.load(part.slot, part.path)).parameters
    except (registry.PartError, ValueError) as error:  # a ValueError: the class has no signature
        warnings.warn(f"{part.package}: {error}", stacklevel=2)
        return None
    return {key: "" if p.default is p.empty else repr(p.default) for key, p in parameters.items()}


def _tell_shared_names(parts: list[registry.Part]) -> None:
    """Warns of names that several packages declare: such a part has to be named by its dotted path."""
    for (slot, name), count in Counter((part.slot, part.name) for part in parts).items():
        if count > 1:
            try:
                registry.resolve(slot, name)
            except registry.PartError as error:
                warnings.warn(str(error), stacklevel=2)


def _show(parts: list[dict[str, Any]], arguments: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("slot", "name", "package", "description"):
        table.add_column(title, no_wrap=title != "description", overflow="fold")
    for part in parts:
        text = part["summary"]
        if arguments and part["arguments"] is not None:
            text += "\n" + ", ".join(f"{k}={v}" if v else k for k, v in part["arguments"].items())
        table.add_row(part["slot"], part["name"], f"{part['package']} {part['version']}".strip(), text)
    table_console().print(table if parts else "no parts", markup=False)

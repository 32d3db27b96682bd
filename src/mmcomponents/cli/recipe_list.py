"""`mmcomponents recipes`: lists the recipes that come with the library."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.table import Table

from mmcomponents.cli.recipes.recipe import SHIPPED, shipped
from mmcomponents.cli.terminal.parser import Parser
from mmcomponents.cli.terminal.tables import table_console
from mmcomponents.cli.user_error import UserError


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    parser = Parser(
        prog=f"mmcomponents {verb}",
        description="List the recipes that come with the library. A recipe of your own begins with `extends: NAME`.",
        allow_abbrev=False,
    )
    parser.add_argument("prefix", nargs="?", default="", help="beginning of the names, such as internvl3/")
    parser.add_argument("--json", action="store_true", help="print JSON: name, file and description")
    options = parser.parse_args(argv)
    found = [{"name": name, **_described(name)} for name in shipped() if name.startswith(options.prefix)]
    if not found:
        raise UserError(f"{verb}: no recipe begins with {options.prefix!r}")
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return 0
    table = Table("recipe", "description", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for recipe in found:
        table.add_row(recipe["name"], recipe["description"])
    table_console().print(table, markup=False)
    return 0


def _described(name: str) -> dict[str, str]:
    """Returns file and description of a recipe: the first sentence of the comment that it begins with."""
    file = next(path for root in SHIPPED if (path := Path(root, f"{name}.yaml")).is_file())
    comment: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    text, stop, _ = " ".join(comment).partition(". ")
    return {"file": file.as_posix(), "description": text + stop.strip()}

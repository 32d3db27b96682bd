"""`mmcomponents data`: finds the module of a kind of data command."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console

from mmcomponents.cli import data_convert, data_handwriting, data_index, data_inspect, data_preferences, data_steps
from mmcomponents.cli.user_error import UserError
from mmcomponents.registry import near

KINDS: dict[str, tuple[str, Callable[[str, list[str]], int]]] = {
    "handwriting": (data_handwriting.LINE, data_handwriting.main),
    "convert": (data_convert.LINE, data_convert.main),
    "index": (data_index.LINE, data_index.main),
    "inspect": (data_inspect.LINE, data_inspect.main),
    "preferences": (data_preferences.LINE, data_preferences.main),
    "steps": (data_steps.LINE, data_steps.main),
}
"""Kind -> (line of the help, function that runs it)."""

FORMER = {"pack": "convert"}
"""Former name of a kind -> its name."""


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {kind:12} {line}" for kind, (line, _) in KINDS.items()]
        Console().print("\n".join([f"usage: mmcomponents {verb} KIND [options]", "", *lines]), markup=False)
        return 0 if argv else 2
    kind, rest = argv[0], argv[1:]
    if kind in FORMER:
        sys.stderr.write(f"mmcomponents: `{verb} {kind}` is now called `{verb} {FORMER[kind]}`\n")
        kind = FORMER[kind]
    if kind == "ladder":
        raise UserError(f"{verb}: the data of the ladder is written by examples/ladder/ladder_dataset.py")
    if kind not in KINDS:
        raise UserError(f"{verb}: no kind {kind!r}{near(kind, [*KINDS, *FORMER])}; the kinds are {', '.join(KINDS)}")
    return KINDS[kind][1](verb, rest)

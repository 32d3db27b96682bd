"""`mmcomponents data`: finds the module of a kind of data command."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

from rich.console import Console

from mmcomponents.cli.user_error import UserError
from mmcomponents.registry import near

KINDS: dict[str, tuple[str, str]] = {
    "handwriting": ("data_handwriting", "write a small data set of real handwritten digits as shards"),
    "pictures": ("runs.data_pictures", "write a small data set of pictures of digits to be made and read, as shards"),
    "shapes": ("runs.data_shapes", "write pictures of coloured shapes, with a reasoning text before each, as shards"),
    "tabletop": ("control.data_tabletop", "write demonstrations of a small control task, for policies"),
    "convert": (
        "data_convert",
        "convert annotations of InternVL, LLaVA, ms-swift, TRL, OpenAI … to shards",
    ),
    "index": ("data_index", "write the index of shards: tokens, tiles and position of each sample"),
    "inspect": ("data_inspect", "counts, expected packs, and samples as the model sees them"),
    "vocabulary": ("data_vocabulary", "write the words that the tokenizers of several models share, for LangBridge"),
    "preferences": ("data_preferences", "make preference pairs from a model's own answers"),
    "steps": ("data_steps", "score the steps of a model's own solutions by completing them, for a critic"),
}
"""Kind -> (module in this package, line of the help). Each module has `main(verb, argv) -> exit code`."""

FORMER = {"pack": "convert"}
"""Former name of a kind -> its name."""


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {kind:12} {line}" for kind, (_, line) in KINDS.items()]
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
    run: Callable[[str, list[str]], int] = importlib.import_module(f"mmcomponents.cli.{KINDS[kind][0]}").main
    return run(verb, rest)

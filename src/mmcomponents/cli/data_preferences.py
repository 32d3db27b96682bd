"""`mmcomponents data preferences`: preference pairs from a model's own answers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from mmcomponents.cli.data import KINDS
from mmcomponents.cli.models import synthesis_options
from mmcomponents.cli.terminal.tables import table_console
from mmcomponents.cli.user_error import UserError

if TYPE_CHECKING:
    from mmcomponents.synthesis.preferences import PreferenceReport

_SHOWN = 120
"""Maximum number of characters of a printed answer."""


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    made = synthesis_options.parser(f"{verb} preferences", KINDS["preferences"][1], samples=32, temperature=0.7)
    made.add_argument(
        "--max_pairs",
        type=int,
        default=15,
        help="maximum number of pairs per question (15); MMPR: 3 for very large files",
    )
    made.add_argument(
        "--no_format_negatives",
        action="store_true",
        help="omit responses without a parseable answer; by default they count as wrong",
    )
    made.add_argument(
        "--no_answers",
        action="store_true",
        help="without reference answers: the rejected answer is the first half, continued without the image",
    )
    call = synthesis_options.take_apart(made, argv)
    options = call.options
    from mmcomponents.synthesis.preferences import make_preferences

    make = partial(make_preferences, max_pairs=options.max_pairs, format_negatives=not options.no_format_negatives)
    report = synthesis_options.draw(call, make, answers=not options.no_answers)
    _close(report, table_console(), checked=not options.no_answers)
    if not report.pairs:
        raise UserError(f"{call.name}: no pairs were made; see the reasons in the table")
    return 0


def _close(report: PreferenceReport, console: Console, checked: bool) -> None:
    """Prints the counts and the paths of the output."""
    rows = [("questions", report.questions, 0), ("skipped questions", report.refused, report.questions)]
    rows += [("answers", report.samples, 0), ("truncated at max_new_tokens, never chosen", report.cut, report.samples)]
    if checked:
        rows += [("correct", report.correct, report.samples), ("wrong", report.wrong, report.samples)]
        rows += [("without a parseable answer, or truncated", report.unparseable, report.samples)]
    rows += [("pairs", report.pairs, 0)]
    rows += [("omitted pairs, correct answer is part of the wrong one", report.contained, 0)] * checked
    rows += [("omitted pairs, same answer without the image", report.equal, 0)] * (not checked)
    rows += [(f"questions without a pair: {why}", count, report.questions) for why, count in report.without.items()]
    console.print(synthesis_options.counts_table("preferences", rows))
    if 2 * report.unparseable > report.samples and report.odd:
        shown = report.odd if len(report.odd) <= _SHOWN else f"{report.odd[:_SHOWN]}…"
        synthesis_options.print_lines(console, f"--check finds no answer in most responses, such as {shown!r}")
    if not report.pairs:
        return  # an error follows
    count = len(report.shards)
    written = "1 shard with its index" if count == 1 else f"{count:,} shards with their indices"
    synthesis_options.print_lines(
        console,
        f"{report.out}: {written}, preferences.json, recipe.yaml, journal.jsonl",
        f"{report.out / 'recipe.yaml'} contains the data section of a recipe",
    )

"""`mmcomponents data preferences`: pairs of answers, from a model's own samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mmcomponents.cli import drawing
from mmcomponents.cli.errors import UserError
from mmcomponents.cli.tables import table_console

if TYPE_CHECKING:
    from mmcomponents.inference.preferences import PreferenceReport

LINE = "make pairs of better and worse answers from a model's own samples"

_SHOWN = 120
"""Letters of an answer that is shown."""


def main(verb: str, argv: list[str]) -> int:
    """Entry of the verb."""
    made = drawing.parser(f"{verb} preferences", f"{LINE[0].upper()}{LINE[1:]}.", drawing.Usual(32, 0.7))
    made.add_argument(
        "--max_pairs", type=int, default=15, help="pairs of a question at most (15); MMPR takes 3 from very large files"
    )
    made.add_argument(
        "--no_format_negatives",
        action="store_true",
        help="leave out answers in which no answer is found; else they count as wrong",
    )
    made.add_argument(
        "--no_answers",
        action="store_true",
        help="right answers are not known: the rejected one is the first half, continued without the image",
    )
    call = drawing.take_apart(made, argv)
    options = call.options
    from mmcomponents.inference.preferences import make_preferences

    with drawing.telling(call):
        checker = None if options.no_answers else drawing.checker(options)
        sampling = drawing.sampling(options)
        questions = drawing.questions(call, answers=not options.no_answers)
        loaded = drawing.load(call)
        with drawing.bar() as progress:
            report = make_preferences(
                loaded.model,
                loaded.renderer,
                questions,
                options.out,
                sampling,
                checker,
                max_pairs=options.max_pairs,
                format_negatives=not options.no_format_negatives,
                max_refused=options.max_refused,
                samples_per_shard=options.samples_per_shard,
                max_tokens=options.max_tokens,
                max_segments=options.max_segments,
                max_cache=options.max_cache,
                progress=progress,
            )
    _close(report, table_console(), checked=checker is not None)
    if not report.pairs:
        raise UserError(f"{call.name}: no pair came of it; the table says why")
    return 0


def _close(report: PreferenceReport, console: Console, checked: bool) -> None:
    """What was drawn, what came of it, and where it is."""
    table = Table("preferences")
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    rows = [("questions", report.questions, 0), ("could not be asked", report.refused, report.questions)]
    rows += [("answers", report.samples, 0), ("cut at max_new_tokens, never chosen", report.cut, report.samples)]
    if checked:
        rows += [("right", report.correct, report.samples), ("wrong", report.wrong, report.samples)]
        rows += [("no answer found, or cut", report.unparseable, report.samples)]
    rows += [("pairs", report.pairs, 0)]
    rows += [("left out, the right answer being part of the wrong one", report.contained, 0)] * checked
    rows += [("left out, the answer being the same without the image", report.equal, 0)] * (not checked)
    rows += [(f"questions without a pair: {why}", count, report.questions) for why, count in report.without.items()]
    for name, count, of in rows:
        table.add_row(name, f"{count:,}", f"{count / of:.1%}" if of else "")
    console.print(table)
    if 2 * report.unparseable > report.samples and report.odd:
        shown = report.odd if len(report.odd) <= _SHOWN else f"{report.odd[:_SHOWN]}…"
        told = f"most answers hold none that --check finds, such as {shown!r}"
        console.print(told, markup=False, highlight=False, soft_wrap=True)
    if not report.pairs:
        return  # the error that follows says so
    count = len(report.shards)
    written = "1 shard with its index" if count == 1 else f"{count:,} shards with their indices"
    for line in (
        f"{report.out}: {written}, preferences.json, recipe.yaml, journal.jsonl",
        f"{report.out / 'recipe.yaml'} has the lines for a recipe's data section",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)

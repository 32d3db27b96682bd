"""`mmcomponents data steps`: solutions with scored steps, for a critic to learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mmcomponents.cli import drawing
from mmcomponents.cli.errors import UserError
from mmcomponents.cli.tables import table_console

if TYPE_CHECKING:
    from mmcomponents.inference.step_scores import StepReport

LINE = "score the steps of a model's own solutions by completing them, for a critic"


def main(verb: str, argv: list[str]) -> int:
    """Entry of the verb."""
    made = drawing.parser(f"{verb} steps", f"{LINE[0].upper()}{LINE[1:]}.", drawing.Usual(4, 1.0))
    add = made.add_argument
    add("--completions", type=int, default=16, help="drawn from each step (16)")
    add("--max_steps", type=int, default=12, help="steps of a solution at most; more are joined (12)")
    add("--threshold", type=float, default=0.0, help="a step is good where more completions than this are right (0)")
    told = "leave out questions that are answered rightly always or never: nothing tells their good steps from bad ones"
    add("--mixed_only", action="store_true", help=told)
    add("--until_error", action="store_true", help="leave out the steps after the first bad one")
    add("--critic_system", metavar="TEXT", help="what critics are told instead of the usual; '': nothing")
    call = drawing.take_apart(made, argv)
    options = call.options
    from mmcomponents.data.critique import SYSTEM
    from mmcomponents.inference.step_scores import make_step_scores

    with drawing.telling(call):
        checker, sampling = drawing.checker(options), drawing.sampling(options)
        questions = drawing.questions(call)
        loaded = drawing.load(call)
        with drawing.bar() as progress:
            report = make_step_scores(
                loaded.model,
                loaded.renderer,
                questions,
                options.out,
                sampling,
                checker,
                completions=options.completions,
                max_steps=options.max_steps,
                threshold=options.threshold,
                mixed_only=options.mixed_only,
                until_error=options.until_error,
                system=SYSTEM if options.critic_system is None else options.critic_system or None,
                max_refused=options.max_refused,
                samples_per_shard=options.samples_per_shard,
                max_tokens=options.max_tokens,
                max_segments=options.max_segments,
                max_cache=options.max_cache,
                progress=progress,
            )
    _close(report, options.until_error, table_console())
    if not report.steps:
        raise UserError(f"{call.name}: no solution has a step; the table says why")
    return 0


def _close(report: StepReport, until_error: bool, console: Console) -> None:
    """What was drawn, what came of it, and where it is."""
    table = Table("steps")
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    rows = [
        ("questions", report.questions, 0),
        ("could not be asked", report.refused, report.questions),
        ("solutions", report.solutions, 0),
        ("left out, drawn before", report.equal, report.solutions),
        ("left out, without text", report.empty, report.solutions),
        ("cut at max_new_tokens, thus wrong", report.cut, report.solutions),
        ("left out, too long to be continued", report.unscored, report.solutions),
        ("left out, to a question that is always or never answered rightly", report.one_sided, report.solutions),
        ("right, of those kept", report.correct, report.used),
        ("steps", report.steps, 0),
        ("+", report.good, report.steps),
        ("-", report.steps - report.good, report.steps),
        ("completions", report.completions, 0),
        ("cut at max_new_tokens, thus wrong", report.completions_cut, report.completions),
    ]
    for name, count, of in rows:
        table.add_row(name, f"{count:,}", f"{count / of:.1%}" if of else "")
    console.print(table)
    if report.steps and report.steps == report.used and not until_error:
        told = "each solution is one step, as steps end at blank lines: process-*.tar says what outcome-*.tar does"
        console.print(told, markup=False, highlight=False, soft_wrap=True)
    if report.steps and report.good in (0, report.steps):
        word = "+" if report.good else "-"
        told = f'every step is a "{word}": a critic learns nothing from that; it takes harder or easier questions'
        console.print(told, markup=False, highlight=False, soft_wrap=True)
    files = f"{len(report.shards):,} shards with their indices, steps.jsonl, steps.json, journal.jsonl"
    lines = [f"{report.out}: {files}"]
    lines += ["process-*.tar judges every step, outcome-*.tar the whole solution"]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

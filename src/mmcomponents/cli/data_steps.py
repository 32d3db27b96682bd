"""`mmcomponents data steps`: solutions with scored steps, as training data of a critic."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from mmcomponents.cli.data import KINDS
from mmcomponents.cli.models import synthesis_options
from mmcomponents.cli.terminal.tables import table_console
from mmcomponents.cli.user_error import UserError

if TYPE_CHECKING:
    from mmcomponents.synthesis.step_scores import StepReport


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    made = synthesis_options.parser(f"{verb} steps", KINDS["steps"][1], samples=4, temperature=1.0)
    add = made.add_argument
    add("--completions", type=int, default=16, help="number of completions per step (16)")
    add("--max_steps", type=int, default=12, help="maximum number of steps of a solution; excess steps are joined (12)")
    add("--threshold", type=float, default=0.0, help="a step is good if a larger share of completions is correct (0)")
    add("--mixed_only", action="store_true", help="omit questions that are always or never answered correctly: "
        "their good and bad steps cannot be distinguished")  # fmt: skip
    add("--until_error", action="store_true", help="omit the steps after the first bad one")
    add("--critic_system", metavar="TEXT", help="system text of the critic instead of the default; '': none")
    call = synthesis_options.take_apart(made, argv)
    options = call.options
    from mmcomponents.data.chat.critic_prompt import SYSTEM
    from mmcomponents.synthesis.step_scores import make_step_scores

    make = partial(
        make_step_scores,
        completions=options.completions,
        max_steps=options.max_steps,
        threshold=options.threshold,
        mixed_only=options.mixed_only,
        until_error=options.until_error,
        system=SYSTEM if options.critic_system is None else options.critic_system or None,
    )
    report = synthesis_options.draw(call, make)
    _close(report, options.until_error, table_console())
    if not report.steps:
        raise UserError(f"{call.name}: no solution has a step; see the reasons in the table")
    return 0


def _close(report: StepReport, until_error: bool, console: Console) -> None:
    """Prints the counts and the paths of the output."""
    rows = [
        ("questions", report.questions, 0),
        ("skipped questions", report.refused, report.questions),
        ("solutions", report.solutions, 0),
        ("omitted, drawn before", report.equal, report.solutions),
        ("omitted, without text", report.empty, report.solutions),
        ("truncated at max_new_tokens, thus wrong", report.cut, report.solutions),
        ("omitted, too long to be completed", report.unscored, report.solutions),
        ("omitted, question is always or never answered correctly", report.one_sided, report.solutions),
        ("correct, of those kept", report.correct, report.used),
        ("steps", report.steps, 0),
        ("+", report.good, report.steps),
        ("-", report.steps - report.good, report.steps),
        ("completions", report.completions, 0),
        ("truncated at max_new_tokens, thus wrong", report.completions_cut, report.completions),
    ]
    console.print(synthesis_options.counts_table("steps", rows))
    if report.steps and report.steps == report.used and not until_error:
        line = "each solution is a single step, as steps end at blank lines: process-*.tar equals outcome-*.tar"
        synthesis_options.print_lines(console, line)
    if report.steps and report.good in (0, report.steps):
        word, other = ("+", "harder") if report.good else ("-", "easier")
        line = f'every step is a "{word}", from which a critic cannot learn; use {other} questions'
        synthesis_options.print_lines(console, line)
    files = f"{len(report.shards):,} shards with their indices, steps.jsonl, steps.json, journal.jsonl"
    synthesis_options.print_lines(
        console,
        f"{report.out}: {files}",
        "process-*.tar contains a verdict for every step, outcome-*.tar for the complete solution",
    )

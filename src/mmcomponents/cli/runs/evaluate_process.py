"""`mmcomponents evaluate process`: evaluates how well a critic classifies steps, on VisualProcessBench."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mmcomponents.cli.models.model_options import (
    add_model_options,
    check_model,
    default_folder,
    load_model,
    parse_arguments,
)
from mmcomponents.cli.models.synthesis_options import bar
from mmcomponents.cli.recipes.flags import Flags, sort_flags
from mmcomponents.cli.terminal.parser import Parser, recipe_verb_parser
from mmcomponents.cli.terminal.tables import cell, print_line, table_console
from mmcomponents.cli.user_error import UserError, errors_in_one_line

if TYPE_CHECKING:
    from mmcomponents.evaluation.process_bench import ProcessReport

_SHOWN = 5
"""Maximum number of skipped records that are printed; report.json lists all."""


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb.

    Args:
        verb: Name of the verb, for messages.
        argv: Optional folder of a critic, the verb's own options, and `--config` and settings of a recipe.
    """
    if (arguments := parse_arguments(_parser(verb), argv)) is None:
        return 0
    options, folder, recipe = arguments
    flags = sort_flags(recipe)
    _check(verb, options, folder, flags)
    if not options.out:
        options.out = str(default_folder(folder, flags, options.ckpt_path) / "process" / Path(options.benchmark).stem)
    with errors_in_one_line(verb):
        report = _run(verb, options, folder, flags)
    _close(report, table_console())
    from mmcomponents.evaluation.process_bench import REPORT, STEPS

    files = " and ".join(str(Path(options.out) / name) for name in (REPORT, STEPS))
    print_line(table_console(), f"wrote {files}")
    return 0


def _check(verb: str, options: argparse.Namespace, folder: str | None, flags: Flags) -> None:
    for name in ("benchmark", "images"):
        if getattr(options, name) is None:
            raise UserError(f"{verb}: --{name} is missing")
    if not 0 < options.threshold < 1:
        raise UserError(f"{verb}: --threshold must be between 0 and 1, got {options.threshold:g}")
    if not 0 <= options.max_refused <= 1:
        raise UserError(f"{verb}: --max_refused must be from 0 to 1, got {options.max_refused:g}")
    if options.max_tokens < 1:
        raise UserError(f"{verb}: --max_tokens must be at least 1, got {options.max_tokens}")
    if not os.path.isdir(options.images):
        raise UserError(f"{verb}: there is no image folder {options.images!r}")
    check_model(verb, options, folder, flags, "CRITIC")


def _run(verb: str, options: argparse.Namespace, folder: str | None, flags: Flags) -> ProcessReport:
    from mmcomponents.data.chat.critic_prompt import SYSTEM
    from mmcomponents.evaluation.critic import Critic
    from mmcomponents.evaluation.process_bench import STEPS, evaluate_process, read_process_bench
    from mmcomponents.synthesis.questions import check_skipped

    # an unusable file is reported before a model is loaded
    records, refused = read_process_bench(options.benchmark, options.images)
    total, what = len(records) + len(refused), f"records of {options.benchmark}"
    check_skipped(refused, total, options.max_refused, what, "scored")
    loaded = load_model(verb, options, folder, flags)
    critic = Critic(
        loaded.model,
        loaded.renderer,
        verdicts=options.verdicts,
        system=SYSTEM if options.system is None else options.system or None,
        max_tokens=options.max_tokens,
    )
    try:
        with bar() as progress:
            return evaluate_process(
                critic,
                options.benchmark,
                options.images,
                options.threshold,
                options.out,
                partial(progress, "solutions"),
                options.max_refused,
            )
    except KeyboardInterrupt:
        where = Path(options.out) / STEPS
        print_line(Console(stderr=True), f"stopped; the same command resumes from {where}")
        raise


def _close(report: ProcessReport, console: Console) -> None:
    """Prints a row per source, a total, and the skipped records."""
    table = Table("source", title=f"verdicts on steps, right if above {report.threshold:g}")
    for name in ("solutions", "right steps", "wrong", "neutral", "F1 of right", "F1 of wrong", "macro F1"):
        table.add_column(name, justify="right", no_wrap=True)
    for source, part in [*report.sources.items(), ("all steps", report.overall)]:
        figures = asdict(part)
        counts = [f"{figures[name]:,}" for name in ("records", "right", "wrong", "neutral")]
        shares = [f"{figures[name]:.1%}" for name in ("f1_right", "f1_wrong", "macro_f1")]
        if source == "all steps":
            table.add_section()
        table.add_row(cell(source), *counts, *shares)
    console.print(table)
    if report.refused:
        print_line(console, f"{len(report.refused)} skipped records:")
        for line in report.refused[:_SHOWN]:
            print_line(console, f"  {line}")
        if len(report.refused) > _SHOWN:
            print_line(console, f"  and {len(report.refused) - _SHOWN} more, see report.json")


def _parser(verb: str) -> Parser:
    parser = recipe_verb_parser(
        verb,
        "Score each step of VisualProcessBench with a critic and compare with the labels: macro F1 over right and "
        "wrong steps, by source and in total; neutral steps are ignored. An interrupted run resumes when it is called "
        "again.",
        "%(prog)s CRITIC --benchmark test.jsonl --images FOLDER [options]\n       "
        "%(prog)s --config RECIPE --ckpt_path FILE --benchmark test.jsonl --images FOLDER [options]",
    )
    add = parser.add_argument
    add("--benchmark", metavar="FILE", help="VisualProcessBench's test.jsonl")
    add("--images", metavar="FOLDER", help="root of the image paths")
    add("--out", metavar="FOLDER", help="folder of report.json and steps.jsonl; default: "
        "runs/evaluate/MODEL/process/BENCHMARK")  # fmt: skip
    add("--max_refused", type=float, default=0.01, help="largest share of records that may be skipped (0.01)")
    add("--threshold", type=float, default=0.5, help="a step counts as right if its score is above this (0.5); "
        "others report 0.85, unconfirmed")  # fmt: skip
    add("--verdicts", nargs=2, default=["+", "-"], metavar=("RIGHT", "WRONG"), help="the critic's two verdicts (+ -)")
    add("--system", help="system text of the critic's training; '': none; default: that of `data steps`")
    add("--max_tokens", type=int, default=16384, help="maximum number of tokens of a pack (16384)")
    add_model_options(parser)
    return parser

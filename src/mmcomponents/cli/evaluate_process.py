"""`mmcomponents evaluate process`: how well a critic tells right steps from wrong ones, on VisualProcessBench."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.table import Table

from mmcomponents.cli.drawing import bar
from mmcomponents.cli.errors import UserError
from mmcomponents.cli.flags import sort_flags
from mmcomponents.cli.tables import table_console
from mmcomponents.registry import near

if TYPE_CHECKING:
    from mmcomponents.cli.loading import Loaded
    from mmcomponents.inference.process_bench import ProcessReport

_TOLD = 5
"""Records that were left out and are named; report.json names all."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"evaluate process: {message}")


def main(verb: str, argv: list[str]) -> int:
    """Entry of the verb.

    Args:
        verb: Words before the arguments, for messages.
        argv: A critic's folder or none, the verb's own options, and `--config` and settings of a recipe.
    """
    parser = _parser(verb)
    folder, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    options, recipe = parser.parse_known_args(rest)
    if options.help:
        parser.print_help()
        return 0
    _check(verb, options, folder, recipe)
    options.out = options.out or f"runs/evaluate/process/{Path(options.benchmark).stem}"
    from mmcomponents.data.critique import SYSTEM
    from mmcomponents.data.errors import DataError
    from mmcomponents.inference.critic import Critic
    from mmcomponents.inference.process_bench import (
        REPORT,
        STEPS,
        check_refused,
        evaluate_process,
        read_process_bench,
    )

    try:
        # what is wrong with it shows before a model is loaded
        records, refused = read_process_bench(options.benchmark, options.images)
        check_refused(refused, len(records) + len(refused), options.max_refused, options.benchmark)
        loaded = _load(verb, options, folder, recipe)
        critic = Critic(
            loaded.model,
            loaded.renderer,
            verdicts=options.verdicts,
            system=SYSTEM if options.system is None else options.system or None,
            max_tokens=options.max_tokens,
        )
        with bar() as tell:
            report = evaluate_process(
                critic,
                options.benchmark,
                options.images,
                options.threshold,
                options.out,
                partial(tell, "solutions"),
                options.max_refused,
            )
    except UserError:
        raise
    except (ValueError, OSError, DataError) as error:
        raise UserError(f"{verb}: {' '.join(str(error).split())}") from error
    except KeyboardInterrupt:
        where = Path(options.out) / STEPS
        Console(stderr=True).print(f"stopped; the same command goes on from {where}", markup=False)
        raise
    _close(report, table_console())
    files = " and ".join(str(Path(options.out) / name) for name in (REPORT, STEPS))
    table_console().print(f"wrote {files}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _check(verb: str, options: argparse.Namespace, folder: str | None, recipe: list[str]) -> None:
    for name in ("benchmark", "images"):
        if getattr(options, name) is None:
            raise UserError(f"{verb}: --{name} is missing")
    if not 0 < options.threshold < 1:
        raise UserError(f"{verb}: --threshold must lie between 0 and 1, got {options.threshold:g}")
    if not 0 <= options.max_refused <= 1:
        raise UserError(f"{verb}: --max_refused is a share from 0 to 1, got {options.max_refused:g}")
    if options.max_tokens < 1:
        raise UserError(f"{verb}: --max_tokens must be at least 1, got {options.max_tokens}")
    if not os.path.isdir(options.images):
        raise UserError(f"{verb}: there is no folder of images {options.images!r}")
    flags = sort_flags(recipe)
    for key, _ in flags.settings:
        if "." not in key and key != "seed_everything":
            raise UserError(f"{verb}: no option --{key}{near(key, vars(options))}")
    if not folder and not flags.configs:
        raise UserError(f"{verb}: needs CRITIC, a folder, or --config RECIPE --ckpt_path FILE")
    if folder and (flags.configs or flags.settings or options.ckpt_path):
        raise UserError(f"{verb}: a critic's folder goes without a recipe, its settings and --ckpt_path")


def _load(verb: str, options: argparse.Namespace, folder: str | None, recipe: list[str]) -> Loaded:
    from mmcomponents.cli.generate import DTYPES, _device
    from mmcomponents.cli.loading import from_folder, from_recipe

    device, dtype = _device(options.device), DTYPES.get(options.dtype or "")
    if folder:
        return from_folder(folder, device, dtype, options.allow_pickle, options.trust_remote_code)
    from mmcomponents.data import PackedDataModule
    from mmcomponents.training import MultimodalTask

    classes = (MultimodalTask, PackedDataModule)
    return from_recipe(verb, sort_flags(recipe), options.ckpt_path, classes, device, dtype)


def _close(report: ProcessReport, console: Console) -> None:
    """A row for each source, one for all, and what was left out."""
    table = Table("source", title=f"verdicts on steps, right above {report.threshold:g}")
    for name in ("solutions", "right steps", "wrong", "neutral", "F1 of right", "F1 of wrong", "macro F1"):
        table.add_column(name, justify="right", no_wrap=True)
    for source, part in [*report.sources.items(), ("all steps", report.overall)]:
        figures = asdict(part)
        counts = [f"{figures[name]:,}" for name in ("records", "right", "wrong", "neutral")]
        shares = [f"{figures[name]:.1%}" for name in ("f1_right", "f1_wrong", "macro_f1")]
        if source == "all steps":
            table.add_section()
        table.add_row(source, *counts, *shares)
    console.print(table)
    if report.refused:
        console.print(f"{len(report.refused)} records could not be judged:", markup=False, highlight=False)
        for line in report.refused[:_TOLD]:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        if len(report.refused) > _TOLD:
            console.print(f"  and {len(report.refused) - _TOLD} more, see report.json", highlight=False)


def _parser(verb: str) -> _Parser:
    from mmcomponents.cli.generate import DTYPES

    parser = _Parser(
        prog=f"mmcomponents {verb}",
        usage="%(prog)s CRITIC --benchmark test.jsonl --images FOLDER [options]\n       "
        "%(prog)s --config RECIPE --ckpt_path FILE --benchmark test.jsonl --images FOLDER [options]",
        description="Score each step of VisualProcessBench with a critic and compare with its labels: macro F1 over "
        "right and wrong steps, by source and over all steps; neutral steps do not count. A run that was stopped goes "
        "on when it is called again.",
        allow_abbrev=False,
        add_help=False,
    )
    add = parser.add_argument
    add("-h", "--help", action="store_true", help="show this")
    add("--ckpt_path", help="checkpoint of a recipe's run: a file, or a folder of shards")
    add("--benchmark", metavar="FILE", help="VisualProcessBench's test.jsonl")
    add("--images", metavar="FOLDER", help="where the paths of its images begin")
    add(
        "--out", metavar="FOLDER", help="where report.json and steps.jsonl go; default: runs/evaluate/process/BENCHMARK"
    )
    add("--max_refused", type=float, default=0.01, help="largest share of records that may be unusable (0.01)")
    add("--threshold", type=float, default=0.5, help="a step is called right where its score is above this (0.5); "
        "others report 0.85 as theirs, unconfirmed")  # fmt: skip
    add("--verdicts", nargs=2, default=["+", "-"], metavar=("RIGHT", "WRONG"), help="the critic's two words (+ -)")
    add("--system", help="what the critic is told, as in its training; '': nothing; default: what our data says")
    add("--max_tokens", type=int, default=16384, help="tokens of a pack at most (16384)")
    add("--device", help="default: cuda where there is one, else cpu")
    add("--dtype", choices=list(DTYPES), help="of the weights; default: as they are stored")
    add("--allow_pickle", action="store_true", help="read a folder's weights that are pickles; only if you trust them")
    add(
        "--trust_remote_code",
        action="store_true",
        help="import parts of other packages that a folder of ours names by dotted path; only if you trust it",
    )
    return parser

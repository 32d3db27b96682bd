"""`mmcomponents ablate`: trains and tests variants of a recipe, and compares them in a table and a plot."""

from __future__ import annotations

from pathlib import Path

from mmcomponents.cli.ablation.ablation_spec import make_ablation, read_file
from mmcomponents.cli.recipes.flags import check_options, sort_flags
from mmcomponents.cli.terminal.parser import Parser, positive, recipe_verb_parser
from mmcomponents.cli.user_error import UserError


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    name, words = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    parser = _parser(verb)
    options, recipe_flags = parser.parse_known_args(words)
    if options.help:
        parser.print_help()
        return 0
    flags = sort_flags(recipe_flags)
    if flags.requests:
        raise UserError(f"{verb}: no option {flags.requests[0]}; see `mmcomponents fit {flags.requests[0]}`")
    check_options(verb, flags, vars(options))
    tree = {} if name is None else read_file(name)
    ablation = make_ablation(tree, flags.configs, flags.settings, options.over, options.seeds)
    title = Path(name).stem if name else Path(flags.configs[-1]).stem
    out = Path(options.out or Path("runs", "ablations", title))
    from mmcomponents.cli.ablation import ablation_call

    call = ablation_call.Call(verb, ablation, out, title)
    if options.dry_run:
        return call.show_variants()
    if options.commands:
        return call.write_commands(argv)
    if not options.report and (code := call.run(options.jobs, options.only)) is not None:
        return code
    return call.report()


def _parser(verb: str) -> Parser:
    parser = recipe_verb_parser(
        verb,
        "Train and test variants of a recipe that differ in parts or settings, each with every seed, and compare them: "
        "a table (terminal, Markdown, CSV) and a plot. A call that was stopped goes on when it is repeated. FILE has "
        "the keys config, settings, over or runs, seeds, tests and metrics. Flags of the recipe apply to all runs.",
        "%(prog)s FILE [options]\n       %(prog)s --config RECIPE --over KEY=VALUE,VALUE [options]",
    )
    add = parser.add_argument
    add("--over", nargs="+", action="extend", default=[], metavar="KEY=VALUE,VALUE", help="values of a key of the "
        "recipe; several keys are combined; the first values are the base")  # fmt: skip
    add("--seeds", metavar="0,1,2", help="seeds (0)")
    add("--out", metavar="FOLDER", help="folder of the runs and results; default: runs/ablations/NAME")
    add("--dry_run", "--dry-run", action="store_true", help="print the variants with parameters and FLOPs, run nothing")
    add("--jobs", type=positive, default=1, metavar="N", help="runs at a time (1)")
    add("--commands", action="store_true", help="write a command for each run to FOLDER/commands.txt, for arrays of a "
        "cluster's scheduler, and run nothing")  # fmt: skip
    add("--only", metavar="VARIANT/seed-N", help="run this one, without table and plot")
    add("--report", action="store_true", help="make table and plot of what has been run, and run nothing")
    return parser

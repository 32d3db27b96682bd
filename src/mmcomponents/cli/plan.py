"""`mmcomponents plan`: counts parameters, memory and FLOPs of a recipe's model without creating weights."""

from __future__ import annotations

from mmcomponents.cli.recipes.flags import check_options, sort_flags
from mmcomponents.cli.terminal.parser import Parser, capacity, natural, positive, recipe_verb_parser


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    parser = _parser(verb)
    options, recipe_flags = parser.parse_known_args(argv)
    if options.help:
        parser.print_help()
        return 0
    flags = sort_flags(recipe_flags)
    check_options(verb, flags, vars(options))
    from mmcomponents.cli.runs.plan_run import run

    return run(verb, options, flags)


def _parser(verb: str) -> Parser:
    parser = recipe_verb_parser(
        verb,
        "Count parameters, memory and FLOPs of a recipe's training step by slot, without creating weights: its model, "
        "its packs (data.packing), its trainer's devices, strategy and precision. Flags of the recipe (--config, "
        "--model.…) are accepted too.",
    )
    add = parser.add_argument
    add("--devices", type=positive, help="devices; default: those of the recipe's trainer, or 1")
    add("--tokens", type=positive, help="tokens of a pack; default: those of the recipe, or 16384")
    add("--tiles", type=natural, help="tiles of a pack; default: as many as fill three quarters of it, at most those of"
        " the recipe, or 48")  # fmt: skip
    add("--memory", type=capacity, help="memory of a device, such as 80GB, for the verdict; default: 80GB and 141GB")
    add("--json", action="store_true", help="print one JSON object: counts, bytes, FLOPs")
    return parser

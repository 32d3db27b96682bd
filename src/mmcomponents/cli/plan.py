"""`mmcomponents plan`: counts parameters, memory and FLOPs of a recipe's model without creating weights."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.filesize import decimal, pick_unit_and_suffix
from rich.table import Table

from mmcomponents.cli.recipes.flags import check_options, sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.terminal.parser import Parser, natural, positive, recipe_verb_parser
from mmcomponents.cli.terminal.tables import table_console
from mmcomponents.cli.user_error import UserError
from mmcomponents.training import MultimodalTask
from mmcomponents.training.estimate import Plan, make_plan
from mmcomponents.training.memory import LEFT_OUT
from mmcomponents.training.slots import freeze


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    parser = _parser(verb)
    options, recipe_flags = parser.parse_known_args(argv)
    if options.help:
        parser.print_help()
        return 0
    flags = sort_flags(recipe_flags)
    check_options(verb, flags, vars(options))
    cli = RecipeCLI(verb, flags, MultimodalTask, data_class=None)
    task: Any = cli.model
    model = cli.meta_model
    freeze(model, task.slots)
    reference = getattr(task.make_objective(), "reference", None)
    try:
        found = make_plan(model, options.devices, options.tokens, options.tiles, reference)
    except ValueError as error:
        raise UserError(f"{verb}: {error}") from None
    if options.json:
        sys.stdout.write(json.dumps(_as_json(found, flags.configs, options.devices), indent=2) + "\n")
    else:
        table_console().print(_tables(found, options.devices), highlight=False)
    return 0


def _parser(verb: str) -> Parser:
    parser = recipe_verb_parser(
        verb,
        "Count parameters, memory and FLOPs of a recipe's model by slot, without creating weights. Flags of the recipe "
        "(--config, --model.…) are accepted too; its data: and trainer: are ignored.",
    )
    add = parser.add_argument
    add("--devices", type=positive, default=1, help="devices that fsdp2 shards over; default: 1")
    add("--tokens", type=positive, default=16384, help="tokens of the pack for FLOPs; default: 16384")
    add("--tiles", type=natural, help="tiles of that pack; default: as many as fill three quarters of it, at most 48")
    add("--json", action="store_true", help="print one JSON object: counts, bytes, FLOPs")
    return parser


def _as_json(found: Plan, recipes: list[str], devices: int) -> dict[str, Any]:
    memory = {
        "devices": devices,
        **asdict(found.memory),
        "total": found.memory.total,
        "unit": "bytes on the fullest device",
        "for": "fsdp2, fp32 weights, bf16 computation, AdamW",
        "left_out": list(LEFT_OUT),
    }
    return {"recipe": recipes, **asdict(found), "memory": memory}


def _tables(found: Plan, devices: int) -> Group:
    slots = Table("slot", "part")
    for head in ("parameters", "trainable", "FLOPs forward", "FLOPs per step"):
        slots.add_column(head, justify="right")
    for slot in [*found.parts, "total"]:
        if slot == "total":
            slots.add_section()
        numbers = (f"{found.parameters[slot]:,}", f"{found.trainable[slot]:,}")
        costs = (_short(found.flops[slot]), _short(found.training_flops[slot]))
        slots.add_row(slot, found.parts.get(slot, ""), *numbers, *costs)
    memory = Table("memory per device")
    memory.add_column("", justify="right")
    memory.add_row("fp32 weights", decimal(found.memory.weights))
    if found.memory.reference:
        memory.add_row("fp32 weights of the reference", decimal(found.memory.reference))
    memory.add_row("fp32 gradients", decimal(found.memory.gradients))
    memory.add_row("AdamW", decimal(found.memory.optimizer))
    memory.add_row("gathered at a time, at most", decimal(found.memory.gathered))
    memory.add_section()
    memory.add_row("total", decimal(found.memory.total))
    pack = found.pack
    return Group(
        slots,
        f"FLOPs are for a pack of {pack['tokens']:,} tokens in one conversation: {pack['tiles']} tiles with "
        f"{pack['visual_tokens']:,} visual tokens, and {pack['targets']:,} targets. A step is a forward and a backward "
        f"pass{', and a forward pass of the reference' if found.memory.reference else ''}.",
        "",
        memory,
        f"On {devices} device{'s' if devices > 1 else ''} with fsdp2, bf16 computation. "
        f"Not counted: {', '.join(LEFT_OUT)}.",
    )


def _short(value: int) -> str:
    unit, suffix = pick_unit_and_suffix(value, ["", "K", "M", "G", "T", "P", "E"], 1000)
    return f"{value / unit:,.1f} {suffix}" if suffix else str(value)

"""`mmcomponents plan`: what a recipe's model holds and costs, before any weight exists."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any, NoReturn

import torch
from rich.console import Console, Group
from rich.filesize import decimal, pick_unit_and_suffix
from rich.table import Table

from mmcomponents.cli.errors import UserError
from mmcomponents.cli.flags import sort_flags
from mmcomponents.cli.run import RecipeCLI
from mmcomponents.registry import near
from mmcomponents.training import MultimodalTask
from mmcomponents.training.adapters import inject_adapters
from mmcomponents.training.estimate import Plan, make_plan
from mmcomponents.training.memory import LEFT_OUT
from mmcomponents.training.slots import freeze

_PIPE_WIDTH = 160
"""Columns where the output is no terminal."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"plan: {message}")


def main(verb: str, argv: list[str]) -> int:
    """Entry of the verb."""
    parser = _parser(verb)
    options, recipe_flags = parser.parse_known_args(argv)
    if options.help:
        parser.print_help()
        return 0
    flags = sort_flags(recipe_flags)
    for key, _ in flags.settings:
        if "." not in key and key != "seed_everything":
            raise UserError(f"{verb}: no option --{key}{near(key, vars(options))}")
    task: Any = RecipeCLI(verb, flags, MultimodalTask, data_class=None).model
    with torch.device("meta"):
        model = task.factories.build(task.vocab_size, task.image_token_id)
    inject_adapters(model, task.slots)
    freeze(model, task.slots)
    reference = getattr(task.make_objective(), "reference", None)
    try:
        found = make_plan(model, options.devices, options.tokens, options.tiles, reference)
    except ValueError as error:
        raise UserError(f"{verb}: {error}") from None
    if options.json:
        sys.stdout.write(json.dumps(_as_json(found, flags.configs, options.devices), indent=2) + "\n")
    else:
        console = Console()
        if not console.is_terminal:
            console.width = _PIPE_WIDTH
        console.print(_shown(found, options.devices), highlight=False)
    return 0


def _parser(verb: str) -> _Parser:
    parser = _Parser(
        prog=f"mmcomponents {verb}",
        description="Count parameters, memory and FLOPs of a recipe's model, slot by slot. No weight is made. "
        "Flags of the recipe (--config, --model.…) are taken too; its data: and trainer: play no part.",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this")
    parser.add_argument("--devices", type=_positive, default=1, help="that fsdp2 shards over; default: 1")
    parser.add_argument("--tokens", type=_positive, default=16384, help="of the pack for FLOPs; default: 16384")
    parser.add_argument(
        "--tiles", type=_natural, help="of that pack; default: what goes into three quarters of it, at most 48"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object: counts, bytes, FLOPs")
    return parser


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"takes a whole number, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a whole number of at least 1, got {text!r}")
    return int(text)


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


def _shown(found: Plan, devices: int) -> Group:
    slots = Table("slot", "part")
    for head in ("parameters", "trainable", "FLOPs forward", "FLOPs of a step"):
        slots.add_column(head, justify="right")
    for slot in [*found.parts, "total"]:
        if slot == "total":
            slots.add_section()
        numbers = (f"{found.parameters[slot]:,}", f"{found.trainable[slot]:,}")
        costs = (_short(found.flops[slot]), _short(found.training_flops[slot]))
        slots.add_row(slot, found.parts.get(slot, ""), *numbers, *costs)
    memory = Table("memory of a device")
    memory.add_column("", justify="right")
    memory.add_row("fp32 weights", decimal(found.memory.weights))
    if found.memory.reference:
        memory.add_row("fp32 weights of the reference", decimal(found.memory.reference))
    memory.add_row("fp32 gradients", decimal(found.memory.gradients))
    memory.add_row("AdamW", decimal(found.memory.optimizer))
    memory.add_row("gathered for a while, at most", decimal(found.memory.gathered))
    memory.add_section()
    memory.add_row("total", decimal(found.memory.total))
    pack = found.pack
    return Group(
        slots,
        f"FLOPs of a pack of {pack['tokens']:,} tokens in one conversation: {pack['tiles']} tiles, which are "
        f"{pack['visual_tokens']:,} tokens, and {pack['targets']:,} targets. A step is forward and backward"
        f"{', and the forward of the reference' if found.memory.reference else ''}.",
        "",
        memory,
        f"On {devices} device{'s' if devices > 1 else ''} with fsdp2, bf16 computation. "
        f"Not counted: {', '.join(LEFT_OUT)}.",
    )


def _short(value: int) -> str:
    unit, suffix = pick_unit_and_suffix(value, ["", "K", "M", "G", "T", "P", "E"], 1000)
    return f"{value / unit:,.1f} {suffix}" if suffix else str(value)

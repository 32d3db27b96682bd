"""`mmcomponents plan`: counts parameters, memory and FLOPs of a recipe's model without creating weights."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console

from mmcomponents.cli.models.planned_run import planned_run
from mmcomponents.cli.recipes.flags import check_options, sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.terminal.parser import Parser, natural, positive, recipe_verb_parser
from mmcomponents.cli.terminal.plan_tables import plan_tables
from mmcomponents.cli.terminal.tables import table_console
from mmcomponents.cli.user_error import UserError
from mmcomponents.component import WiringError
from mmcomponents.training import MultimodalTask
from mmcomponents.training.memory.device_memory import LEFT_OUT
from mmcomponents.training.memory.estimate import Estimator, make_plan
from mmcomponents.training.memory.synthetic_pack import synthetic_pack
from mmcomponents.training.memory.verdict import verdict
from mmcomponents.training.slots import freeze

_GB = 2**30
"""What makers of GPUs call a GB: one of 80 GB has 80 GiB."""

_DEVICES = (80 * _GB, 141 * _GB)
"""Memory of an A100 or H100, and of an H200."""


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
        run, settings, packing = planned_run(
            cli.recipe.resolved(), task, model, options.devices, own_data=cli.recipe.data_class is not None
        )
        pack = synthetic_pack(model, options.tokens or packing.tokens, options.tiles, packing.tiles)
    except (ValueError, MisconfigurationException) as error:
        raise UserError(f"{verb}: {error}") from None
    estimator = Estimator(model, run, pack, reference)
    with Console(stderr=True).status("running the model without data, once for each setting"):
        try:
            found = make_plan(estimator, settings)
        except WiringError as error:
            raise UserError(f"{verb}: {error}") from None
        capacities = [] if found.problem else [options.memory] if options.memory else list(_DEVICES)
        verdicts = [verdict(estimator, settings, capacity) for capacity in capacities]
    if options.json:
        memory = {
            "devices": run.devices,
            **asdict(found.memory),
            "total": found.memory.total,
            "unit": "bytes on the fullest device",
            "for": run.described(),
            "checkpointing": settings,
            "left_out": list(LEFT_OUT),
        }
        plan = {"recipe": flags.configs, **asdict(found), "memory": memory, "verdicts": [asdict(v) for v in verdicts]}
        sys.stdout.write(json.dumps(plan, indent=2) + "\n")
    else:
        table_console().print(plan_tables(found, run, settings, verdicts), highlight=False)
    return 0


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
    add("--memory", type=_capacity, help="memory of a device, such as 80GB, for the verdict; default: 80GB and 141GB")
    add("--json", action="store_true", help="print one JSON object: counts, bytes, FLOPs")
    return parser


def _capacity(text: str) -> int:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(G(i?B)?)?", text, re.IGNORECASE)
    value = 0 if found is None else int(float(found[1]) * _GB)
    if not value:
        raise argparse.ArgumentTypeError(f"takes an amount of memory such as 80GB, got {text!r}")
    return value

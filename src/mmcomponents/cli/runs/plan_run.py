"""Figures of `mmcomponents plan`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console

from mmcomponents.cli.models.planned_run import check_data, largest_tile, planned_run
from mmcomponents.cli.recipes.flags import Flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.terminal.parser import GB
from mmcomponents.cli.terminal.plan_tables import plan_tables
from mmcomponents.cli.terminal.tables import table_console
from mmcomponents.cli.user_error import UserError
from mmcomponents.component import WiringError
from mmcomponents.training import MultimodalTask
from mmcomponents.training.memory.device_memory import LEFT_OUT
from mmcomponents.training.memory.estimate import Estimator, Settings, make_plan
from mmcomponents.training.memory.synthetic_pack import synthetic_pack
from mmcomponents.training.memory.verdict import verdict
from mmcomponents.training.slots import freeze

_DEVICES = (80 * GB, 141 * GB)
"""Memory of an A100 or H100, and of an H200."""


def estimator_of(
    verb: str, flags: Flags, devices: int | None = None, tokens: int | None = None, tiles: int | None = None
) -> tuple[Estimator, Settings]:
    """Returns the estimator of a recipe, and the activation checkpointing of its slots.

    Args:
        verb: Name of the verb, for messages.
        flags: Recipes and their settings.
        devices: Number of devices. None: those of the recipe's trainer.
        tokens: Tokens of a pack. None: those of the recipe.
        tiles: Tiles of a pack. None: as many as fill three quarters of it, at most those of the recipe.

    Raises:
        UserError: A setting is invalid.
    """
    cli = RecipeCLI(verb, flags, MultimodalTask, data_class=None)
    task: Any = cli.model
    model = cli.meta_model
    freeze(model, task.slots)
    tree = cli.recipe.resolved()
    own_data = cli.recipe.data_class is not None
    try:
        if not own_data:
            check_data(tree, model)
        run, settings, packing = planned_run(tree, task, model, devices, own_data)
        pack = synthetic_pack(model, tokens or packing.tokens, tiles, packing.tiles, largest_tile(tree))
    except (ValueError, MisconfigurationException) as error:
        raise UserError(f"{verb}: {error}") from None
    return Estimator(model, run, pack, getattr(task.make_objective(), "reference", None)), settings


def run(verb: str, options: argparse.Namespace, flags: Flags) -> int:
    """Prints the figures of a recipe.

    Args:
        verb: Name of the verb, for messages.
        options: The verb's own options.
        flags: Recipes and their settings.
    """
    estimator, settings = estimator_of(verb, flags, options.devices, options.tokens, options.tiles)
    run = estimator.run
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

"""How a recipe trains, as far as `plan` needs it, read from the recipe without building a trainer."""

from __future__ import annotations

from typing import Any, get_args

import torch
import yaml

from mmcomponents.cli.recipes.merging import Tree
from mmcomponents.data.settings import PackingSettings
from mmcomponents.model import MultimodalModel
from mmcomponents.training import MultimodalTask
from mmcomponents.training.fsdp2 import DTYPES
from mmcomponents.training.memory.device_memory import Run
from mmcomponents.training.memory.optimizer_state import state_bytes
from mmcomponents.training.memory.verdict import Settings
from mmcomponents.training.slots import options_of
from mmcomponents.training.units.checkpointing import Checkpointing
from mmcomponents.training.units.prepare import slots_with_units

_TYPES = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32, "64": torch.float64}


def planned_run(
    tree: Tree, task: MultimodalTask, model: MultimodalModel, devices: int | None
) -> tuple[Run, Settings, PackingSettings]:
    """Reads the sections `trainer` and `data` of a recipe.

    Args:
        tree: The resolved recipe. Without a trainer, `fsdp2` with bf16 computation is assumed.
        task: The task of the recipe.
        model: Its model.
        devices: Number of devices. None: that of the trainer.

    Returns:
        The run, the activation checkpointing of each slot whose part has units, and the size of a pack.

    Raises:
        ValueError: A setting has no such value.
    """
    trainer = tree.get("trainer") or {}
    strategy, arguments = _class_of(trainer.get("strategy"))
    is_fsdp2 = not trainer or strategy.rpartition(".")[2] in ("fsdp2", "FSDP2Strategy")
    precision = str(trainer.get("precision") or "32-true")
    weights = _TYPES.get(precision.partition("-")[0], torch.float32)
    if not trainer:
        compute = torch.bfloat16
    elif is_fsdp2 and precision.startswith("32"):
        compute = DTYPES[str(arguments.get("compute_dtype", "fp32"))]
    else:
        compute = weights
    if "mixed" in precision:
        weights = torch.float32
    number, nodes = trainer.get("devices"), trainer.get("num_nodes")
    own = int(str(number)) if str(number).isdigit() else len(number) if isinstance(number, list) else 1
    run = Run(
        devices=devices or max(own, 1) * (nodes if isinstance(nodes, int) else 1),
        replicate=int(arguments.get("replicate", 1)),
        sharded=is_fsdp2,
        weights=weights,
        compute=compute,
        accumulates=int(trainer.get("accumulate_grad_batches") or 1) > 1,
        state_bytes=state_bytes(task.make_optimizer, weights),
        fused_step=trainer.get("accelerator") != "cpu",
    )
    default: Any = arguments.get("activation_checkpointing", "none") if is_fsdp2 else "none"
    if default not in get_args(Checkpointing):
        raise ValueError(f"activation_checkpointing {default!r} is not one of {', '.join(get_args(Checkpointing))}")
    settings: Settings = {}
    for slot in slots_with_units(model):
        chosen = options_of(slot, task.slots).activation_checkpointing
        settings[slot] = default if chosen is None else chosen
    return run, settings, _packing(tree)


def _class_of(value: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(value, dict):
        return str(value.get("class_path", "")), value.get("init_args") or {}
    return str(value or ""), {}


def _packing(tree: Tree) -> PackingSettings:
    data = tree.get("data")
    given = data.get("packing") if isinstance(data, dict) else None
    # The value of a flag is a text, which the parser of the data section would read as YAML.
    known = {key: yaml.safe_load(str(given[key])) for key in ("tokens", "tiles") if given and key in given}
    return PackingSettings(**known)

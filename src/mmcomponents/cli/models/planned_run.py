"""How a recipe trains, as far as `plan` needs it, read from the recipe without building a trainer."""

from __future__ import annotations

import logging
from typing import Any, get_args

import torch
import yaml

from mmcomponents import registry
from mmcomponents.cli.recipes.merging import Tree
from mmcomponents.data.model_check import check_tiles
from mmcomponents.data.settings import ImageSettings, PackingSettings
from mmcomponents.model import MultimodalModel
from mmcomponents.training import FSDP2Strategy, MultimodalTask
from mmcomponents.training.distributed.fsdp2 import DTYPES
from mmcomponents.training.memory.device_memory import Run
from mmcomponents.training.memory.estimate import Settings
from mmcomponents.training.memory.optimizer_state import state_bytes
from mmcomponents.training.quantization import check_quantization
from mmcomponents.training.slots import options_of
from mmcomponents.training.units.checkpointing import Checkpointing
from mmcomponents.training.units.prepare import slots_with_units

log = logging.getLogger(__name__)

_TYPES = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32, "64": torch.float64}
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
_ALIASES = {"32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""Short names of Lightning."""

_PLAIN = ("", "auto", "ddp", "ddp_spawn", "single_device", "DDPStrategy", "SingleDeviceStrategy")
"""Strategies with a copy of the model on each device."""


def planned_run(
    tree: Tree, task: MultimodalTask, model: MultimodalModel, devices: int | None, own_data: bool = False
) -> tuple[Run, Settings, PackingSettings]:
    """Reads the sections `trainer` and `data` of a recipe.

    Args:
        tree: The resolved recipe. Without a trainer, `fsdp2` with bf16 computation is assumed.
        task: The task of the recipe.
        model: Model of the task, on the meta device.
        devices: Number of devices. None: that of the trainer.
        own_data: Whether the recipe names a data class, whose settings are its own; a pack then has the default size.

    Returns:
        The run, the activation checkpointing of each slot whose part has units, and the size of a pack.

    Raises:
        ValueError: A setting has no such value.
        MisconfigurationException: Slots cannot be quantised with this strategy.
    """
    trainer = tree.get("trainer") or {}
    sharded, arguments = _strategy(trainer)
    check_quantization(task.slots, sharded)
    weights, compute, autocast = _precision(trainer, sharded, arguments)
    run = Run(
        devices=devices or _devices(trainer),
        replicate=_whole("trainer.strategy.replicate", arguments.get("replicate", 1)),
        sharded=sharded,
        weights=weights,
        compute=compute,
        accumulates=_whole("trainer.accumulate_grad_batches", trainer.get("accumulate_grad_batches", 1)) > 1,
        state_bytes=state_bytes(task.make_optimizer, weights),
        autocast=autocast,
        fused_step=trainer.get("accelerator") != "cpu",
    )
    default: Any = arguments.get("activation_checkpointing", "none")
    if default not in get_args(Checkpointing):
        raise ValueError(f"activation_checkpointing {default!r} is not one of {', '.join(get_args(Checkpointing))}")
    settings: Settings = {}
    for slot in slots_with_units(model):
        chosen = options_of(slot, task.slots).activation_checkpointing
        settings[slot] = default if chosen is None else chosen
    return run, settings, PackingSettings() if own_data else _packing(tree)


def largest_tile(tree: Tree) -> tuple[int, int] | None:
    """Returns height and width of the largest tile of images that keep their aspect ratio; None for square tiles.

    Args:
        tree: The resolved recipe.
    """
    data = tree.get("data")
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, dict) or images.get("longest_side") is None:
        return None
    side = images.get("tile_size") or ImageSettings().tile_size
    return _whole("data.images.tile_size", side), _whole("data.images.longest_side", images["longest_side"])


def check_data(tree: Tree, model: MultimodalModel) -> None:
    """Checks that the tiles of a recipe's data are those of its model, as `fit` does.

    Args:
        tree: The resolved recipe.
        model: Its model, on the meta device.

    Raises:
        ValueError: They differ.
    """
    data = tree.get("data")
    if not isinstance(data, dict) or model.vision is None:
        return
    images, tokens = data.get("images"), data.get("tokens_per_tile")
    size = images.get("tile_size") if isinstance(images, dict) else None
    check_tiles(
        None if tokens is None else _whole("data.tokens_per_tile", tokens),
        None if size is None else _whole("data.images.tile_size", size),
        None if model.embedder is None else model.tokens_per_tile,
        model.vision.image_size,
    )


def _strategy(trainer: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Returns whether the strategy is `fsdp2`, and its arguments if it is."""
    value = trainer.get("strategy")
    name = str(value.get("class_path", "") if isinstance(value, dict) else value or "")
    arguments = (value.get("init_args") or {}) if isinstance(value, dict) else {}
    kind = registry.imported(name) if "." in name else None
    if (
        not trainer
        or name in ("fsdp2", "FSDP2Strategy")
        or (isinstance(kind, type) and issubclass(kind, FSDP2Strategy))
    ):
        return True, arguments
    if name.rpartition(".")[2] not in _PLAIN:
        log.warning("trainer.strategy %s is planned as if each device held a copy of the model", name)
    return False, {}


def _precision(
    trainer: dict[str, Any], sharded: bool, arguments: dict[str, Any]
) -> tuple[torch.dtype, torch.dtype, bool]:
    """Returns the data types of weights and computation, and whether autocast chooses the latter."""
    given = str(trainer.get("precision") or "32-true")
    name = _ALIASES.get(given, given)
    if name not in _PRECISIONS:
        raise ValueError(f"trainer.precision {given!r} is not one of {', '.join(_PRECISIONS)}")
    kind, _, how = name.partition("-")
    if not trainer:
        return torch.float32, torch.bfloat16, False
    if how == "mixed":
        return torch.float32, _TYPES[kind], True
    compute = str(arguments.get("compute_dtype", "fp32"))
    if compute not in DTYPES:
        raise ValueError(f"trainer.strategy.compute_dtype {compute!r} is not one of {', '.join(DTYPES)}")
    return _TYPES[kind], DTYPES[compute] if sharded and compute != "fp32" else _TYPES[kind], False


def _devices(trainer: dict[str, Any]) -> int:
    """Returns the number of devices on all nodes; one a node where only the machine knows."""
    given = yaml.safe_load(str(trainer.get("devices", 1)))
    if isinstance(given, str) and given.replace(",", "").isdigit():
        given = given.strip(",").split(",")
    if given in ("auto", -1, "-1"):
        log.warning("trainer.devices %s depends on the machine: one device a node is planned, see --devices", given)
        given = 1
    number = len(given) if isinstance(given, list) else _whole("trainer.devices", given)
    return number * _whole("trainer.num_nodes", trainer.get("num_nodes", 1))


def _whole(name: str, value: Any) -> int:
    """Returns a whole number of at least 1; a flag gives it as a text."""
    text = str(1 if value is None else value)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return int(text)


def _packing(tree: Tree) -> PackingSettings:
    data = tree.get("data")
    given = data.get("packing") if isinstance(data, dict) else None
    if given is None:
        return PackingSettings()
    if not isinstance(given, dict):
        raise ValueError(f"data.packing holds settings, a mapping, not {given!r}")
    try:
        # A flag gives a text, which the parser of the data section would read as YAML.
        read = {key: yaml.safe_load(value) if isinstance(value, str) else value for key, value in given.items()}
        return PackingSettings(**read)
    except (TypeError, yaml.YAMLError) as error:
        raise ValueError(f"data.packing: {' '.join(str(error).split())}") from None

"""Settings of the shard units of parts: what they keep for the backward pass, and whether they are compiled."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from mmcomponents.component import Component, WiringError
from mmcomponents.model import MultimodalModel
from mmcomponents.training.slots import SlotOptions, options_of
from mmcomponents.training.units.checkpointing import Checkpointed, Checkpointing, checkpoint_unit
from mmcomponents.training.units.compilation import Compiled, compile_unit


def prepare_units(
    model: MultimodalModel,
    options: Mapping[str, SlotOptions],
    checkpointing: Checkpointing = "none",
    compiles: bool = False,
) -> None:
    """Applies the settings of each slot to the units of its part, in place. Another call replaces them.

    Args:
        model: Model with its adapters, on any device, not yet sharded.
        options: Options by slot.
        checkpointing: What the units of slots keep that have no setting of their own.
        compiles: Whether the units of slots are compiled that have no setting of their own.

    Raises:
        WiringError: A slot has a setting and its part has no units, or a part has not those that it declares.
    """
    for slot, part in model.parts().items():
        own = options_of(slot, dict(options))
        setting = checkpointing if own.activation_checkpointing is None else own.activation_checkpointing
        is_compiled = compiles if own.compile is None else own.compile
        for name, wanted in (("activation_checkpointing", own.activation_checkpointing), ("compile", own.compile)):
            if wanted not in (None, "none", False) and not part.shard_units:
                raise WiringError(f"slots.{slot}.{name}: {type(part).__name__} declares no units (shard_units)")
        changed = [module for module in part.modules() if isinstance(module, Checkpointed | Compiled)]
        for unit in changed if setting == "none" and not is_compiled else units_of(part):
            compile_unit(unit, False)
            checkpoint_unit(unit, setting)
            compile_unit(unit, is_compiled)


def units_of(part: Component) -> list[nn.Module]:
    """Returns the modules of a part that are sharded, checkpointed and compiled as one unit each.

    Raises:
        WiringError: The part has no module of a type that it declares.
    """
    modules = list(part.modules())
    for kind in part.shard_units:
        if not any(isinstance(module, kind) for module in modules):
            own = sorted({type(module).__name__ for module in modules[1:]})
            raise WiringError(
                f"{type(part).__name__} declares the unit {kind.__name__} (shard_units) and has no such module, only"
                f" {', '.join(own) or 'none'}"
            )
    return [module for module in modules if isinstance(module, part.shard_units)]


def slots_with_units(model: MultimodalModel) -> list[str]:
    """Returns the slots whose parts declare units."""
    return [slot for slot, part in model.parts().items() if part.shard_units]

"""Number of parameters by slot, and device memory of a training step, computed from shapes without weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from mmcomponents.model import MultimodalModel

MASTER, COMPUTE, REDUCE, ADAMW = 4, 2, 4, 8
"""Bytes per weight: fp32 weight, bf16 copy for computation, gradient during reduction over ranks, AdamW's moments."""

LEFT_OUT = ("activations", "the batch", "CUDA's own memory and fragmentation")
"""Memory that `device_memory` does not count."""


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on the device that uses the most memory during a step, with `fsdp2`, fp32 weights, bf16 computation, AdamW.

    Attributes:
        weights: This device's shard of the fp32 weights.
        reference: Its shard of the fp32 weights of a frozen reference model, if there is one.
        gradients: Its shard of the fp32 gradients of trained weights.
        optimizer: Its shard of AdamW's two moments.
        gathered: Peak of temporarily unsharded weights and gradients: the root and the two largest units in bf16 (the
            next one is prefetched while one computes), the gradient of the largest trained unit in bf16, and in fp32
            for its reduction over the devices.
    """

    weights: int
    reference: int
    gradients: int
    optimizer: int
    gathered: int

    @property
    def total(self) -> int:
        """Sum of all attributes, without what `LEFT_OUT` lists."""
        return self.weights + self.reference + self.gradients + self.optimizer + self.gathered


def slot_parameters(model: MultimodalModel) -> dict[str, list[nn.Parameter]]:
    """Returns the parameters of each filled slot, all heads as "head"; shared ones belong to the earliest slot."""
    found: dict[str, list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for name, part in model.parts().items():
        slot = "head" if name.startswith("heads.") else name
        own = [p for p in part.parameters() if p not in seen]
        found[slot] = [*found.get(slot, []), *own]
        seen.update(own)
    return found


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Returns the total number of weights of unsharded parameters."""
    return sum(p.numel() for p in parameters)


def device_memory(model: MultimodalModel, devices: int, reference: bool = False) -> DeviceMemory:
    """Computes the memory of a training step on the device that uses the most, without what `LEFT_OUT` lists.

    FSDP2 shards each parameter along its first dimension into equal pieces, rounded up: the first device has the most,
    and all of a parameter whose first dimension is 1.

    Args:
        model: Model on any device, with frozen slots frozen.
        devices: Number of devices that the model is sharded over.
        reference: Whether a frozen copy of the model is kept.

    Raises:
        ValueError: `devices` is less than 1.
    """
    if devices < 1:
        raise ValueError(f"devices must be at least 1, got {devices}")
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    share = sum(_piece(p, devices) for p in parameters)
    trained_share = sum(_piece(p, devices) for p in trained)
    root, units = _units(model)
    unsharded = count(root) + sum(sorted((count(unit) for unit in units), reverse=True)[:2])
    largest = max((count(p for p in unit if p.requires_grad) for unit in [root, *units]), default=0)
    return DeviceMemory(
        weights=MASTER * share,
        reference=MASTER * share if reference else 0,
        gradients=MASTER * trained_share,
        optimizer=ADAMW * trained_share,
        gathered=COMPUTE * unsharded + (COMPUTE + REDUCE) * largest,
    )


def _piece(parameter: nn.Parameter, devices: int) -> int:
    rows = parameter.shape[0] if parameter.ndim else 1
    return -(-rows // devices) * (parameter.numel() // rows)


def _units(model: MultimodalModel) -> tuple[list[nn.Parameter], list[list[nn.Parameter]]]:
    """Returns the parameters of the root and of each unit, as `training.sharding.shard_model` groups them."""
    parts = model.parts()
    holders: dict[nn.Parameter, int] = {}
    for part in parts.values():
        for parameter in part.parameters():
            holders[parameter] = holders.get(parameter, 0) + 1
    root = [p for p, n in holders.items() if n > 1]
    if model.projector is not None and model.projector.needs_embedding_weight and model.embedder is not None:
        root = list(dict.fromkeys([*root, *model.embedder.parameters()]))
    seen = set(root)
    units = []
    for part in parts.values():
        inner = [module for module in part.modules() if isinstance(module, part.shard_units)]
        for module in [*inner, part]:  # the part holds the parameters that none of its units hold
            unit = [p for p in module.parameters() if p not in seen]
            seen.update(unit)
            units.append(unit)
    return root, units

"""What a model has in each slot, and what training it takes of a device's memory: from shapes, without weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from mmcomponents.model import MultimodalModel

MASTER, COMPUTE, REDUCE, ADAMW = 4, 2, 4, 8
"""Bytes of a weight: in the optimizer, in computation, while its gradient is summed over ranks; and AdamW's moments."""

LEFT_OUT = ("activations", "the batch", "CUDA's own memory and fragmentation")
"""What `device_memory` does not count."""


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on the fullest device while a step runs, under `fsdp2` with fp32 weights, bf16 computation and AdamW.

    Attributes:
        weights: This device's share of the fp32 weights.
        reference: Its share of the fp32 weights of a frozen reference beside the model, if there is one.
        gradients: Its share of the fp32 gradients of trained weights.
        optimizer: Its share of AdamW's two moments.
        gathered: Weights and gradients that are whole for a while, at most: the root and the two largest units in bf16
            (the next one is fetched while one computes), the gradient of the largest trained one in bf16, and in fp32
            for its sum over the devices.
    """

    weights: int
    reference: int
    gradients: int
    optimizer: int
    gathered: int

    @property
    def total(self) -> int:
        """All of them; see `LEFT_OUT`."""
        return self.weights + self.reference + self.gradients + self.optimizer + self.gathered


def slot_parameters(model: MultimodalModel) -> dict[str, list[nn.Parameter]]:
    """The parameters of each filled slot, the heads together as "head". A shared one belongs to the earliest slot."""
    found: dict[str, list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for name, part in model.parts().items():
        slot = "head" if name.startswith("heads.") else name
        own = [p for p in part.parameters() if p not in seen]
        found[slot] = [*found.get(slot, []), *own]
        seen.update(own)
    return found


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Weights in all, of whole parameters."""
    return sum(p.numel() for p in parameters)


def device_memory(model: MultimodalModel, devices: int, reference: bool = False) -> DeviceMemory:
    """What a training step takes of the fullest device, without what `LEFT_OUT` names.

    FSDP2 cuts each parameter along its first dimension into equal pieces, rounded up: the first device has the most,
    and the whole of a parameter whose first dimension is 1.

    Args:
        model: On any device; slots that are not trained are frozen.
        devices: Over which the model is sharded.
        reference: Whether a frozen copy of the model is held beside it.

    Raises:
        ValueError: There is no device.
    """
    if devices < 1:
        raise ValueError(f"devices must be at least 1, got {devices}")
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    share = sum(_piece(p, devices) for p in parameters)
    trained_share = sum(_piece(p, devices) for p in trained)
    root, units = _units(model)
    whole = count(root) + sum(sorted((count(unit) for unit in units), reverse=True)[:2])
    largest = max((count(p for p in unit if p.requires_grad) for unit in [root, *units]), default=0)
    return DeviceMemory(
        weights=MASTER * share,
        reference=MASTER * share if reference else 0,
        gradients=MASTER * trained_share,
        optimizer=ADAMW * trained_share,
        gathered=COMPUTE * whole + (COMPUTE + REDUCE) * largest,
    )


def _piece(parameter: nn.Parameter, devices: int) -> int:
    rows = parameter.shape[0] if parameter.ndim else 1
    return -(-rows // devices) * (parameter.numel() // rows)


def _units(model: MultimodalModel) -> tuple[list[nn.Parameter], list[list[nn.Parameter]]]:
    """Parameters of the root and of each unit, as `training.sharding.shard_model` groups them."""
    parts = model.parts()
    holders: dict[nn.Parameter, int] = {}
    for part in parts.values():
        for parameter in part.parameters():
            holders[parameter] = holders.get(parameter, 0) + 1
    root = [p for p, n in holders.items() if n > 1]
    if model.projector is not None and model.projector.needs_word_table and model.embedder is not None:
        root = list(dict.fromkeys([*root, *model.embedder.parameters()]))
    seen = set(root)
    units = []
    for part in parts.values():
        inner = [module for module in part.modules() if isinstance(module, part.shard_units)]
        for module in [*inner, part]:  # what no unit of a part holds, the part itself does
            unit = [p for p in module.parameters() if p not in seen]
            seen.update(unit)
            units.append(unit)
    return root, units

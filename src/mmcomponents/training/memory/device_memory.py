"""Number of parameters by slot, and memory of a device in a training step, computed from shapes without weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

import torch
from torch import nn

from mmcomponents.model import MultimodalModel
from mmcomponents.nn.nf4_linear import quantized_weights

LEFT_OUT = ("the batch", "CUDA's own memory and fragmentation")
"""Memory that is not counted."""

HEAD = "head"
"""Slot of all heads, and of what is computed after the backbone."""

REDUCE = 4
"""Bytes per weight of a gradient while it is reduced over ranks."""


@dataclass(frozen=True)
class Run:
    """What the memory of a training step depends on besides the model and the pack.

    Attributes:
        devices: Number of devices.
        replicate: Number of copies of the sharded model.
        sharded: Whether `fsdp2` shards the model; otherwise each device has all of it.
        weights: Data type of the weights, their gradients and the optimizer's states.
        compute: Data type of the forward and backward passes.
        accumulates: Whether gradients are summed over several packs.
        state_bytes: Bytes of the optimizer's state per weight; 8 for AdamW in fp32.
        autocast: Whether autocast chooses the data type of each operation; activations are then approximate.
        fused_step: Whether the optimizer updates all weights at once, as on a GPU, with a temporary copy.

    Raises:
        ValueError: `devices` or `replicate` is less than 1, or one is not a multiple of the other.
    """

    devices: int = 1
    replicate: int = 1
    sharded: bool = True
    weights: torch.dtype = torch.float32
    compute: torch.dtype = torch.bfloat16
    accumulates: bool = False
    state_bytes: float = 8.0
    autocast: bool = False
    fused_step: bool = True

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ValueError(f"devices must be at least 1, got {self.devices}")
        if self.replicate < 1:
            raise ValueError(f"replicate must be at least 1, got {self.replicate}")
        if self.devices % self.replicate:
            raise ValueError(f"{self.devices} devices cannot hold {self.replicate} copies of the model")

    @property
    def pieces(self) -> int:
        """Number of pieces that each weight is sharded into."""
        return self.devices // self.replicate if self.sharded else 1

    def described(self) -> str:
        """Returns the strategy and the data types in words."""
        name = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
        strategy = "fsdp2" if self.sharded else "no sharding"
        if self.replicate > 1:
            strategy += f" in {self.replicate} copies"
        how = " by autocast (its activations are approximate)" if self.autocast else ""
        return f"{strategy}, {name[self.weights]} weights, {name[self.compute]} computation{how}"


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on the device that uses the most memory, at the peak of a step after the first.

    Attributes:
        weights: This device's shard of the weights, and all buffers, such as quantised weights.
        reference: Its shard of the weights of a frozen reference model, if there is one, in the data type of the
            computation if it is sharded.
        gradients: Its shard of the gradients of trained weights.
        optimizer: Its shard of the optimizer's state.
        gathered: Copies of weights and gradients for computation. With `fsdp2`: the root, two neighbouring units (the
            next one is prefetched while one computes), the gradient of a trained unit, and in fp32 for its reduction
            over the devices, less the activations that are freed by then. Otherwise the copies of autocast, and the
            buffers of the reduction.
        activations: What the forward pass keeps for the backward pass.
        temporary: What is alive besides at the peak, such as a chunk of logits or the unit that is computed again.
    """

    weights: int
    reference: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int = 0
    temporary: int = 0

    @property
    def total(self) -> int:
        """Sum of all attributes, without what `LEFT_OUT` lists."""
        return sum(int(getattr(self, field.name)) for field in fields(self))


def slot_weights(model: MultimodalModel) -> dict[str, tuple[int, int]]:
    """Returns the number of weights and of trained weights of each filled slot; all heads are the slot "head".

    Shared weights belong to the earliest slot; quantised ones are counted.
    """
    found: dict[str, tuple[int, int]] = {}
    seen: set[nn.Parameter] = set()
    for name, part in model.parts().items():
        slot = HEAD if name.startswith("heads.") else name
        own = [p for p in part.parameters() if p not in seen]
        seen.update(own)
        total, trained = found.get(slot, (0, 0))
        total += count(own) + quantized_weights(part)
        found[slot] = total, trained + count(p for p in own if p.requires_grad)
    return found


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Returns the total number of weights of unsharded parameters."""
    return sum(p.numel() for p in parameters)


def device_memory(model: MultimodalModel, run: Run, reference: bool = False) -> DeviceMemory:
    """Computes the memory of weights, gradients and states on the device that uses the most.

    FSDP2 shards each parameter along its first dimension into equal pieces, rounded up: the first device has the most,
    and all of a parameter whose first dimension is 1.

    Args:
        model: Model on any device, with frozen slots frozen.
        run: How it is trained.
        reference: Whether a frozen copy of the model is kept.
    """
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    each = run.weights.itemsize
    share, buffers = sum(piece(p, run) for p in parameters), sum(b.nbytes for b in model.buffers())
    of_reference = (run.compute if run.sharded else run.weights).itemsize * share + buffers
    trained_share = sum(piece(p, run) for p in trained)
    return DeviceMemory(
        weights=each * share + buffers,
        reference=of_reference if reference else 0,
        gradients=each * trained_share,
        optimizer=int(run.state_bytes * trained_share),
        gathered=gathered(model, run) if run.sharded else _copied(parameters, trained, run),
    )


def piece(parameter: nn.Parameter, run: Run) -> int:
    """Returns the number of weights of a parameter on the device that has the most of them."""
    rows = parameter.shape[0] if parameter.ndim else 1
    return -(-rows // run.pieces) * (parameter.numel() // rows)


def gathered(model: MultimodalModel, run: Run, kept: Mapping[str, int] = MappingProxyType({})) -> int:
    """Computes the copies of weights and gradients that `fsdp2` makes, less the activations that are freed by then.

    When the backward pass has come to a slot, what the slots after it kept is freed; and when the gradient of a head is
    reduced, what the head kept for it.

    Args:
        model: Model on any device.
        run: How it is trained.
        kept: Bytes of the activations of each slot.
    """
    root, units = _units(model)
    sizes = [0, *(count(unit) for _, unit in units), 0]
    trained_root = count(p for p in root if p.requires_grad)  # its gradient is complete at the end only
    most = 0
    for place, (slot, unit) in enumerate(units, start=1):
        weights = count(root) + sizes[place] + max(sizes[place - 1], sizes[place + 1])
        trained = count(p for p in unit if p.requires_grad)
        after = [name for name, _ in units[place:] if name != slot] + ([slot] if slot == HEAD else [])
        freed = sum(kept.get(name, 0) for name in dict.fromkeys(after))
        gradients = run.compute.itemsize * (trained + trained_root) + REDUCE * trained
        most = max(most, run.compute.itemsize * weights, run.compute.itemsize * weights + gradients - freed)
    return max(most, (2 * run.compute.itemsize + REDUCE) * trained_root - sum(kept.values()))


def _copied(parameters: list[nn.Parameter], trained: list[nn.Parameter], run: Run) -> int:
    cast = run.compute.itemsize * count(parameters) if run.compute != run.weights else 0
    return cast + (run.weights.itemsize * count(trained) if run.devices > 1 else 0)


def _units(model: MultimodalModel) -> tuple[list[nn.Parameter], list[tuple[str, list[nn.Parameter]]]]:
    """Returns the parameters of the root and of each unit, as `training.distributed.sharding.shard_model` groups them.

    Units are in the order in which they are gathered in the forward pass, with their slots.
    """
    parts = model.parts()
    holders: dict[nn.Parameter, int] = {}
    for part in parts.values():
        for parameter in part.parameters():
            holders[parameter] = holders.get(parameter, 0) + 1
    root = [p for p, n in holders.items() if n > 1]
    if model.projector is not None and model.projector.needs_embedding_weight and model.embedder is not None:
        root = list(dict.fromkeys([*root, *model.embedder.parameters()]))
    seen = set(root)
    units: list[tuple[str, list[nn.Parameter]]] = []
    for name, part in parts.items():
        inner = [module for module in part.modules() if isinstance(module, part.shard_units)]
        within = {p for module in inner for p in module.parameters()}
        outside = [p for p in part.parameters() if p not in within]  # gathered when the part begins
        for own in [outside, *([*module.parameters()] for module in inner)]:
            unit = [p for p in own if p not in seen]
            seen.update(unit)
            if unit:
                units.append((HEAD if name.startswith("heads.") else name, unit))
    return root, units

"""Sharding of a model over ranks with FSDP2."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from mmcomponents.brought_weights import rebuilt, take_brought
from mmcomponents.checkpoints.adapter_weights import adapter_tensors
from mmcomponents.heads import Head
from mmcomponents.model import MultimodalModel


def shard_model(model: MultimodalModel, mesh: DeviceMesh, policy: MixedPrecisionPolicy | None = None) -> None:
    """Shards a model in place: the units that its parts declare, then the parts, then the model as the root.

    A weight that more than one part reads (that of a tied head, or an embedding weight that the projector needs)
    belongs to the root, which stays unsharded while the model runs. Other embedders and heads are separate units.

    Args:
        model: Model whose weights may be on the meta device.
        mesh: Mesh of one dimension (shard) or two (replicate, shard).
        policy: Data types of computation and reduction. None: those of the weights.
    """
    policy = policy or MixedPrecisionPolicy()
    shared = _shared_parts(model)
    for name, part in model.parts().items():
        for module in part.modules():
            if isinstance(module, part.shard_units):
                fully_shard(module, mesh=mesh, mp_policy=policy)
        if name in shared or not any(True for _ in part.parameters()):
            continue
        fully_shard(part, mesh=mesh, mp_policy=policy)
        for method in part.weight_methods:
            # Objectives call these in addition to `forward`: the weight is gathered for these calls as well.
            register_fsdp_forward_method(part, method)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Converts the parameters of a model on the meta device, and no buffer, to a data type, in place."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def materialize(
    model: MultimodalModel,
    device: torch.device,
    seed: int,
    given: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Initialises a sharded model on the meta device: each rank draws its own rows of large weights.

    Values that the constructor of a part brings are taken from the part built once more on the CPU.

    Args:
        model: Sharded model with all weights on the meta device.
        device: Device of its weights.
        seed: Seed of the draws.
        given: Slot -> names of its parameters that are loaded afterwards, and not drawn.

    Raises:
        WiringError: A part has a buffer that it does not fill.
    """
    # What a constructor brings, the meta device has not kept.
    sources = {name: source for name, part in model.parts().items() if (source := rebuilt(part)) is not None}
    # Adapters are initialised after the weights have been loaded.
    buffers = {
        name: sources.get(name, part).buffer_values(device, adapter_tensors(part))
        for name, part in model.parts().items()
    }
    model.to_empty(device=device)
    for name, part in model.parts().items():
        part.set_buffers(buffers[name])
    model.to(device)  # moves nothing: Lightning's modules record their device, from which the blank tile is made
    model.tie_weights()
    model.init_weights(seed, given)
    for name, source in sources.items():
        take_brought(model.parts()[name], source)


def is_sharded(module: nn.Module) -> bool:
    """Returns whether a module is sharded by FSDP2."""
    return isinstance(module, FSDPModule)


def _shared_parts(model: MultimodalModel) -> set[str]:
    """Returns the parts whose weights another part reads outside their own forward pass."""
    tied = {name for name, part in model.parts().items() if isinstance(part, Head) and part.is_tied}
    needed = model.projector is not None and model.projector.needs_embedding_weight
    return tied | ({"embedder"} if tied or needed else set())

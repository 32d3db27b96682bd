"""FLOPs of a training step, counted from shapes in the loader, without synchronising with a device."""

from __future__ import annotations

import torch
from lightning.fabric.utilities.throughput import get_available_flops

from mmcomponents.batch import IGNORE, PackedBatch, TokenType
from mmcomponents.fusers import Fuser
from mmcomponents.mergers import Merger
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.nf4_linear import quantized_weights

PREFIX = "work/"
"""Prefix of the names that `work` returns, within the counts of a step."""

_H200 = {torch.bfloat16: 9.894e14, torch.float16: 9.894e14, torch.float32: 6.69e13}
"""Dense peak of NVIDIA's H200 SXM by its data sheet; Lightning has that with sparsity, under another name."""


def work(model: MultimodalModel, batch: PackedBatch) -> dict[str, float]:
    """Counts the contents of a pack and the FLOPs of its forward pass; the names are the same on all ranks.

    Returns:
        `work/tokens` (without padding), `work/tiles`, `work/targets`, `work/flops/SLOT` for each part with matrices.
    """
    tiles = 0 if batch.images is None else batch.images.num_tiles
    found = {
        "tokens": float((batch.layout.token_type != TokenType.PAD).sum()),
        "tiles": float(tiles),
        "targets": float((batch.labels != IGNORE).sum()),
        **{f"flops/{name}": _flops(model, name, batch) for name in model.parts() if _has_weights(model, name)},
    }
    return {PREFIX + name: value for name, value in found.items()}


def _flops(model: MultimodalModel, name: str, batch: PackedBatch) -> float:
    """Returns what a part counts; fuser and merger are told the grid of their maps."""
    part = model.parts()[name]
    count = part.flops(batch)
    if not isinstance(part, Fuser | Merger) or model.vision is None:
        return count
    if batch.images is None or batch.images.pixels is None:
        return count
    hw = model.vision.grid(batch.images.pixel_hw)
    if isinstance(part, Merger) and model.fuser is not None:
        hw = model.fuser.grid(hw)
    return count + part.map_flops(batch.images.num_tiles, hw)


def step_factors(model: MultimodalModel) -> dict[str, float]:
    """Returns the cost of a training step in forward passes, by slot.

    A trained slot costs 3: the forward pass, the gradient of its input and that of its weights. A frozen slot costs 2
    if a slot before it in the data flow is trained, since the gradient passes through it, and 1 otherwise. The input
    gradient of a first layer is counted although it is not computed. The products of attention have no weights and cost
    3 wherever a gradient passes: a frozen slot with attention costs slightly more than reported here. With an adapter,
    the weight gradient counts by the share of weights that are trained. Recomputation by activation checkpointing is
    not counted.
    """
    factors: dict[str, float] = {}
    passes = False
    for name, part in model.parts().items():
        sizes = [(p.numel(), p.requires_grad) for p in part.parameters()]
        trained = sum(size for size, is_trained in sizes if is_trained)
        passes = passes or trained > 0
        total = sum(size for size, _ in sizes) + quantized_weights(part)
        factors[name] = 1 + int(passes) + (trained / total if trained else 0)
    return factors


def _has_weights(model: MultimodalModel, name: str) -> bool:
    part = model.parts()[name]
    return any(p.ndim >= 2 for p in part.parameters()) or quantized_weights(part) > 0


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Returns the peak operations per second of a device for matrix products; None if it is not known."""
    if device.type == "cuda" and torch.cuda.get_device_name(device) == "NVIDIA H200":
        return _H200.get(dtype)
    return get_available_flops(device, dtype)

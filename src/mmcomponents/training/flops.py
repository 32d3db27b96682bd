"""What a step costs: counted from shapes and integers, beside the loader, where nothing waits for a device."""

from __future__ import annotations

from mmcomponents.batch import IGNORE, PackedBatch, TokenType
from mmcomponents.model import MultimodalModel

PREFIX = "work/"
"""Of the names below, among the counts of a step."""


def work(model: MultimodalModel, batch: PackedBatch) -> dict[str, float]:
    """What a pack holds and what its forward pass costs, by name; the names are the same on all ranks.

    Returns:
        `work/tokens` (PAD left out), `work/tiles`, `work/targets`, and `work/flops/SLOT` of each part with matrices.
    """
    tiles = 0 if batch.images is None else batch.images.pixels.shape[0]
    found = {
        "tokens": float((batch.layout.token_type != TokenType.PAD).sum()),
        "tiles": float(tiles),
        "targets": float((batch.labels != IGNORE).sum()),
        **{f"flops/{name}": part.flops(batch) for name, part in model.parts().items() if _has_weights(model, name)},
    }
    return {PREFIX + name: value for name, value in found.items()}


def step_factors(model: MultimodalModel) -> dict[str, float]:
    """How many times the forward pass of each slot a training step costs, by slot.

    A trained slot costs three: the forward pass, the gradient of its input and that of its weights. A frozen slot costs
    two where something before it on the way of the data is trained, since the gradient has to pass through it, and one
    where nothing is. The input gradient of a first layer is counted though it is not made. The products of attention
    have no weights and cost three wherever a gradient passes: a frozen slot with attention costs a little more than is
    said here. Where an adapter is trained in place of a slot's weights, the third one counts by the share of weights
    that are trained. What activation checkpointing computes again is not counted.
    """
    factors: dict[str, float] = {}
    passes = False
    for name, part in model.parts().items():
        sizes = [(p.numel(), p.requires_grad) for p in part.parameters()]
        trained = sum(size for size, is_trained in sizes if is_trained)
        passes = passes or trained > 0
        factors[name] = 1 + int(passes) + (trained / sum(size for size, _ in sizes) if trained else 0)
    return factors


def _has_weights(model: MultimodalModel, name: str) -> bool:
    return any(p.ndim >= 2 for p in model.parts()[name].parameters())

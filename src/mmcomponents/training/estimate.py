"""What a model holds and costs before any weight exists: parameters, memory and FLOPs, slot by slot."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mmcomponents.batch import IGNORE, ImageBatch, Layout, PackedBatch, TokenType
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives.references import Reference
from mmcomponents.training.flops import PREFIX, step_factors, work
from mmcomponents.training.memory import DeviceMemory, count, device_memory, slot_parameters
from mmcomponents.training.watch import class_name

_MOST_TILES = 48


@dataclass(frozen=True)
class Plan:
    """What `make_plan` finds; numbers by slot are in the order of the data, with their "total".

    Attributes:
        parts: Class of the part in each slot.
        parameters: Weights of each slot; a shared one is counted once.
        trainable: Those that are trained.
        memory: Bytes on one device.
        pack: The pack that the FLOPs are for.
        flops: Floating-point operations of the forward pass over it.
        training_flops: Those of a training step, forward and backward.
    """

    parts: dict[str, str]
    parameters: dict[str, int]
    trainable: dict[str, int]
    memory: DeviceMemory
    pack: dict[str, int]
    flops: dict[str, int]
    training_flops: dict[str, int]


def make_plan(
    model: MultimodalModel, devices: int, tokens: int, tiles: int | None, reference: Reference | None = None
) -> Plan:
    """Counts a model, on the meta device or any other.

    Args:
        model: Slots that are not trained are frozen.
        devices: Over which it is sharded.
        tokens: Tokens of the pack that FLOPs are counted for.
        tiles: Its tiles; None: see `synthetic_pack`.
        reference: What a preference loss measures against: it may hold a frozen copy of the model, and a step may run
            it forward once more. Looking ahead over several micro-batches is not counted.

    Raises:
        ValueError: The tiles do not go into the pack, or there is no device.
    """
    batch = synthetic_pack(model, tokens, tiles)
    done, factors = work(model, batch), step_factors(model)
    runs, holds = reference is not None and reference.runs_model, reference is not None and reference.is_model
    parts: dict[str, str] = {}
    flops: dict[str, int] = {}
    training_flops: dict[str, int] = {}
    for name, part in model.parts().items():
        slot = "head" if name.startswith("heads.") else name
        parts[slot] = ", ".join(filter(None, (parts.get(slot), class_name(part))))
        cost = done.get(f"{PREFIX}flops/{name}", 0.0)
        flops[slot] = flops.get(slot, 0) + int(cost)
        training_flops[slot] = training_flops.get(slot, 0) + int(cost * (factors[name] + runs))
    slots = slot_parameters(model)
    return Plan(
        parts=parts,
        parameters=_with_total({slot: count(own) for slot, own in slots.items()}),
        trainable=_with_total({slot: count(p for p in own if p.requires_grad) for slot, own in slots.items()}),
        memory=device_memory(model, devices, holds),
        pack={
            "tokens": tokens,
            "tiles": int(done[f"{PREFIX}tiles"]),
            "visual_tokens": int((batch.visual_index >= 0).sum()),
            "targets": int(done[f"{PREFIX}targets"]),
            "segments": batch.num_segments,
        },
        flops=_with_total(flops),
        training_flops=_with_total(training_flops),
    )


def synthetic_pack(model: MultimodalModel, tokens: int, tiles: int | None) -> PackedBatch:
    """A pack of one conversation: one image of so many tiles, then text, each token of which has a target.

    One segment costs attention the most, and targets everywhere cost the head the most. The tiles take no memory.

    Args:
        model: Says how many tokens a tile becomes.
        tokens: Length of the pack.
        tiles: None: as many as go into three quarters of it, at most 48, which are InternVL's packs.

    Raises:
        ValueError: The tiles become more tokens than the pack has, or there is no vision encoder.
    """
    each = model.tokens_per_tile
    if tiles is None:
        tiles = 0 if each is None else min(_MOST_TILES, tokens * 3 // 4 // each)
    if tiles and each is None:
        raise ValueError(f"{tiles} tiles are asked for and the model has no vision encoder")
    visual = tiles * (each or 0)
    if visual > tokens:
        raise ValueError(f"{tiles} tiles become {visual} tokens, more than the {tokens} of the pack")
    place = torch.arange(tokens)
    seen = place < visual
    images = None
    if tiles and model.vision is not None:
        side = model.vision.image_size
        images = ImageBatch(torch.zeros(()).expand(tiles, 3, side, side), torch.zeros(tiles, dtype=torch.long))
    return PackedBatch(
        input_ids=torch.zeros_like(place),
        layout=Layout(
            token_type=torch.where(seen, int(TokenType.IMAGE), int(TokenType.TEXT)),
            cu_seqlens=torch.tensor([0, tokens], dtype=torch.int32),
            max_seqlen=tokens,
            image_id=torch.where(seen, 0, -1),
            grid=torch.tensor([[1, 1, visual]])[: int(tiles > 0)],
        ),
        visual_index=torch.where(seen, place, -1),
        labels=torch.where(seen, IGNORE, 0),
        segment_sample=torch.zeros(1, dtype=torch.long),
        segment_source=torch.zeros(1, dtype=torch.long),
        keys=["plan"],
        images=images,
    )


def _with_total(values: dict[str, int]) -> dict[str, int]:
    return {**values, "total": sum(values.values())}

"""Estimate of a model's parameters, memory and FLOPs by slot, without allocating weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mmcomponents.batch import IGNORE, Layout, PackedBatch, TokenType
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives.references import Reference
from mmcomponents.training.flops import PREFIX, step_factors, work
from mmcomponents.training.gradient_watch import class_name
from mmcomponents.training.memory import DeviceMemory, count, device_memory, slot_parameters
from mmcomponents.vision.base import repeated

_MOST_TILES = 48


@dataclass(frozen=True)
class Plan:
    """Result of `make_plan`; numbers by slot are in the order of the data flow, followed by their "total".

    Attributes:
        parts: Class of the part in each slot.
        parameters: Number of weights of each slot; a shared weight is counted once.
        trainable: Number of trained weights of each slot.
        memory: Bytes on one device.
        pack: Contents of the pack that FLOPs are counted for.
        flops: Floating-point operations of the forward pass.
        training_flops: Floating-point operations of a training step, forward and backward.
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
    """Estimates a model's size and cost, on the meta device or any other.

    Args:
        model: Model with frozen slots frozen.
        devices: Number of devices that the model is sharded over.
        tokens: Number of tokens of the pack that FLOPs are counted for; see `synthetic_pack`.
        tiles: Number of tiles of the pack. None: see `synthetic_pack`.
        reference: Reference of a preference loss. It may hold a frozen copy of the model, and a step may run one more
            forward pass. Lookahead over several micro-batches is not counted.

    Raises:
        ValueError: The tiles do not fit into the pack, or `devices` is less than 1.
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
            "tokens": batch.num_tokens,
            "tiles": int(done[f"{PREFIX}tiles"]),
            "visual_tokens": int((batch.visual_index >= 0).sum()),
            "targets": int(done[f"{PREFIX}targets"]),
            "segments": batch.num_segments,
        },
        flops=_with_total(flops),
        training_flops=_with_total(training_flops),
    )


def synthetic_pack(model: MultimodalModel, tokens: int, tiles: int | None) -> PackedBatch:
    """Returns a pack of one conversation: one image, then text in which every token has a target.

    A single segment maximises the cost of attention, and targets everywhere maximise that of the head. All tiles are
    views of the encoder's blank tile, so that they take the memory of one. A model without a language side gets a pack
    without tokens.

    Args:
        model: Determines the number of visual tokens of a tile.
        tokens: Number of tokens of the pack, of a model with a language side.
        tiles: Number of tiles. None: as many as fit into three quarters of the pack, at most 48, as in InternVL's
            packs; without a language side 48.

    Raises:
        ValueError: The tiles become more tokens than the pack has, or the model has no vision encoder.
    """
    each = model.tokens_per_tile
    has_language = model.embedder is not None or model.backbone is not None
    if tiles is None:
        tiles = 0 if each is None else min(_MOST_TILES, tokens * 3 // 4 // each) if has_language else _MOST_TILES
    if tiles and each is None:
        raise ValueError(f"{tiles} tiles were requested and the model has no vision encoder")
    visual = tiles * (each or 0) if has_language else 0
    tokens = tokens if has_language else 0
    if visual > tokens:
        raise ValueError(f"{tiles} tiles become {visual} tokens, more than the {tokens} of the pack")
    place = torch.arange(tokens)
    seen = place < visual
    images = None
    if tiles and model.vision is not None:
        images = replace(repeated(model.vision.blank("cpu"), tiles), tile_image=torch.zeros(tiles, dtype=torch.long))
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

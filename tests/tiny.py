"""The small InternVL3 of `mmcomponents.testing`, with parts given as instances."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import PackedBatch
from mmcomponents.generation import Context, Sampler
from mmcomponents.model import MultimodalModel
from mmcomponents.testing import IMAGE_TOKEN, VOCAB_SIZE, pack, small_model
from mmcomponents.testing.packs import Segment, separate
from mmcomponents.vision import InternViT

__all__ = ["IMAGE_TOKEN", "Segment", "pack", "separate"]

VOCAB, WIDTH, VISION, HEAD = VOCAB_SIZE, 32, 24, 8
TILE, PATCH, VISUAL_TOKENS = 16, 4, 4
"""A tile of 16 pixels has 4 x 4 patches, which are merged into 4 visual tokens."""


def vision_factory(**changes: Any) -> partial[InternViT]:
    sizes = {"hidden_size": VISION, "num_layers": 2, "num_heads": 3, "intermediate_size": 40}
    return partial(InternViT, **{**sizes, "image_size": TILE, "patch_size": PATCH, **changes})


def vision(**changes: Any) -> InternViT:
    return vision_factory(**changes)()


def backbone_factory(**changes: Any) -> partial[DecoderLM]:
    sizes = {"hidden_size": WIDTH, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 48}
    return partial(DecoderLM, **(sizes | changes))


def backbone(**changes: Any) -> DecoderLM:
    return backbone_factory(**changes)()


def model(seed: int = 0, **parts: Any) -> MultimodalModel:
    """Returns the tiny InternVL3 in evaluation mode, with some components replaced."""
    made = {slot: _ready(part) for slot, part in parts.items() if slot != "heads"}
    if "heads" in parts:
        made["heads"] = {name: _ready(head) for name, head in parts["heads"].items()}
    return small_model(seed, **made)


def _ready(part: Any) -> Any:
    """Returns a factory that ignores the widths of neighbours."""
    return None if part is None else lambda *_: part


def token_ids(
    sampler: Sampler,
    composed: MultimodalModel,
    batch: PackedBatch,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> list[list[int] | None]:
    """Returns the token ids of a sampler's answers."""
    return [answer.ids for answer in sampler(composed, batch, Context(None, stop_ids, generator))]


def logits(composed: MultimodalModel, batch: PackedBatch) -> Tensor:
    """Returns the logits of all positions, `[T, vocab]`."""
    out: Tensor = composed(batch, read=lambda heads, state: heads["lm"](state, batch))
    return out

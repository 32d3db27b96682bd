"""A small InternVL3 of the library's own parts, any of which can be replaced."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from mmcomponents.backbones import DecoderLM
from mmcomponents.compose import Factories
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.model import MultimodalModel
from mmcomponents.positions import V2PE
from mmcomponents.projectors import MLPProjector
from mmcomponents.testing.packs import IMAGE_TOKEN, VOCAB_SIZE
from mmcomponents.vision import InternViT

Factory = Callable[..., Any]
"""Class or function that takes the widths of neighbouring parts, as the slots of `MultimodalTask` do."""


def small_parts(**changes: Any) -> dict[str, Any]:
    """Returns a factory for each slot of a small InternVL3; tiles of 16 pixels become 4 visual tokens.

    Args:
        changes: Factories by slot; None leaves a slot empty. `heads` is a dict by name.

    Raises:
        TypeError: There is no such slot.
    """
    parts: dict[str, Any] = {
        "vision": partial(InternViT, 24, 2, 3, 40, image_size=16, patch_size=4),
        "fuser": None,
        "merger": PixelUnshuffle,
        "projector": MLPProjector,
        "embedder": TokenEmbedder,
        "position": partial(V2PE, delta=0.25),
        "backbone": partial(DecoderLM, 32, 2, 4, 48, num_kv_heads=2),
        "heads": {"lm": LMHead},
    }
    if unknown := changes.keys() - parts.keys():
        raise TypeError(f"no slot {', '.join(sorted(unknown))}; the slots are {', '.join(parts)}")
    parts |= changes
    return parts | {"heads": parts["heads"] or {}}


def small_model(seed: int = 0, *, scale: float = 2.0, **changes: Any) -> MultimodalModel:
    """Builds the model of `small_parts` in evaluation mode.

    Args:
        seed: Seed of the weights.
        scale: Factor of all matrices. They are larger than the parts draw them, since an error in small weights could
            be below the tolerance of a test.
        changes: As in `small_parts`.
    """
    model = Factories(**small_parts(**changes)).build(VOCAB_SIZE, IMAGE_TOKEN)
    model.init_weights(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(scale)
    return model.eval()

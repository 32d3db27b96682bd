"""Tests of the limits on sizes, alone and in the parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from mmcomponents.backbones import DecoderLM
from mmcomponents.component import WiringError
from mmcomponents.compose import Factories
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead
from mmcomponents.limits import MAX_LAYERS, MAX_TILES, check_numbers, check_sizes
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.positions import V2PE, RoPE
from mmcomponents.projectors import LinearProjector, MLPProjector
from mmcomponents.vision import InternViT

DECODER = partial(DecoderLM, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8)
VISION = partial(InternViT, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8, image_size=8, patch_size=4)
SIZES: list[tuple[Callable[..., Any], tuple[str, ...]]] = [
    (DECODER, ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size", "head_dim")),
    (VISION, ("hidden_size", "num_layers", "num_heads", "intermediate_size", "image_size", "patch_size")),
    (partial(PixelUnshuffle, 8), ("rows", "columns")),
    (partial(MLPProjector, in_features=8, out_features=8), ("in_features", "out_features")),
    (partial(LinearProjector, in_features=8, out_features=8), ("in_features", "out_features")),
    (partial(TokenEmbedder, vocab_size=8, hidden_size=8), ("vocab_size", "hidden_size")),
    (partial(LMHead, in_features=8, vocab_size=8), ("in_features", "vocab_size")),
    (partial(RoPE, head_dim=8), ("head_dim", "max_position_embeddings")),
    (partial(V2PE, head_dim=8), ("head_dim",)),
    (Tiling, ("min_tiles", "max_tiles", "tile_size")),
]
NUMBERS: list[tuple[Callable[..., Any], tuple[str, ...]]] = [
    (DECODER, ("eps",)),
    (VISION, ("eps", "layer_scale", "drop_path")),
    (partial(MLPProjector, 8, 8), ("eps",)),
    (partial(RoPE, 8), ("base", "ntk_factor")),
    (partial(V2PE, 8), ("base",)),
]


@pytest.mark.parametrize(
    ("part", "name"), [pytest.param(part, name, id=f"{name}") for part, names in SIZES for name in names]
)
@pytest.mark.usefixtures("few_modules")
def test_sizes_of_parts_are_whole_numbers_within_limits(part: Callable[..., Any], name: str) -> None:
    for value in (-1, 0, 10**10, 10**400, 2.0, float("nan"), "2", True):
        with torch.device("meta"), pytest.raises(ValueError, match=rf"{name} must be (a whole number|from 1 to)"):
            part(**{name: value})


@pytest.mark.parametrize(
    ("part", "name"), [pytest.param(part, name, id=f"{name}") for part, names in NUMBERS for name in names]
)
def test_numbers_of_parts_are_finite(part: Callable[..., Any], name: str) -> None:
    for value in (-1.0, float("nan"), float("inf"), "1", True):
        with torch.device("meta"), pytest.raises(ValueError, match=rf"{name} must be a finite number"):
            part(**{name: value})


def test_a_limit_is_the_last_that_is_allowed() -> None:
    check_sizes(MAX_LAYERS, num_layers=MAX_LAYERS)
    with pytest.raises(ValueError, match=r"^num_layers must be from 1 to 1,000, got 1001$"):
        check_sizes(MAX_LAYERS, num_layers=MAX_LAYERS + 1)
    check_numbers(least=1.0, base=1)
    Tiling(max_tiles=MAX_TILES)
    with pytest.raises(ValueError, match="max_tiles must be from 1 to 4,096, got 100000000"):
        Tiling(max_tiles=10**8)


@pytest.mark.parametrize(
    "reason", ["DefaultCPUAllocator: can't allocate memory: 9 bytes", "Storage size calculation overflowed", "other"]
)
def test_a_model_that_memory_cannot_hold_is_told(reason: str) -> None:
    def fail() -> DecoderLM:
        raise RuntimeError(f"{reason}\nmore lines")

    kind, start = (RuntimeError, "other") if reason == "other" else (WiringError, "the model is too large to be built")
    with pytest.raises(kind, match=start):
        Factories(backbone=fail).build(None, None)

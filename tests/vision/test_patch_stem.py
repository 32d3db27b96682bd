"""Patch stem: the input of the first block of InternViT, and nothing else."""

from __future__ import annotations

import torch

import tiny
from mmcomponents.batch import ImageBatch
from mmcomponents.vision import PatchStem


def test_it_is_the_input_of_the_first_block() -> None:
    stem, encoder = PatchStem(tiny.VISION, tiny.TILE, tiny.PATCH), tiny.vision(levels=(0, 2))
    assert not any(name.startswith("blocks") for name in stem.state_dict())
    stem.load_state_dict({name: v for name, v in encoder.state_dict().items() if not name.startswith("blocks")})
    images = ImageBatch(torch.randn(2, 3, tiny.TILE, 2 * tiny.TILE), torch.arange(2))  # positions are resized
    with torch.no_grad():
        (found,), (expected, _) = stem(images).maps, encoder(images).maps
    assert found.hw == (4, 8)
    assert torch.equal(found.tokens, expected.tokens)


def test_its_weights_are_patches_positions_and_a_class_token() -> None:
    with torch.device("meta"):
        stem = PatchStem(2048)
    assert sum(p.numel() for p in stem.parameters()) == (3 * 14 * 14 + 1) * 2048 + 1025 * 2048 + 2048

"""Contract of vision encoders, tested with one whose images are the ids of an image tokenizer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

import tiny
from mmcomponents.batch import FeatureMap, ImageBatch, PackedBatch, VisualFeatures
from mmcomponents.fusers import Fuser
from mmcomponents.testing import Ranks, check_component, small_model
from mmcomponents.training.flops import work
from mmcomponents.vision.base import repeated
from no_language import IdVision


def id_packs(seed: int, *, tile: int, tokens_per_tile: int) -> list[PackedBatch]:
    """Returns packs whose images are ids, and one of text."""
    draw = torch.Generator().manual_seed(seed)
    packs = []
    for n, pieces in enumerate(([("t", 4), ("i", 1), ("t", 3)], [("t", 5)], [("t", 2), ("i", 2), ("t", 6)])):
        batch = tiny.pack(pieces, seed=10 * seed + n)
        if batch.images is not None:
            ids = torch.randint(16, (batch.images.num_tiles, 4, 4), generator=draw)
            batch = replace(batch, images=ImageBatch(None, batch.images.tile_image, vq_ids=ids))
        packs.append(batch)
    return packs


def test_an_encoder_of_ids_composes_and_trains_on_one_rank_and_on_two(two_ranks: Ranks) -> None:
    report = check_component(
        "vision", IdVision, packs=id_packs, ranks=two_ranks,
        only=["packed_equals_separate", "declared_sizes", "packs_of_one_kind", "half_precision", "two_ranks_equal_one"],
    )  # fmt: skip
    assert {result.status for result in report.results} == {"passed"}


def test_the_blank_tile_is_the_encoders_own() -> None:
    text = tiny.pack([("t", 4)])
    model = small_model(vision=IdVision)
    model(text).hidden.sum().backward()
    assert model.vision.codes.weight.grad is not None
    assert not model.vision.codes.weight.grad.any()
    pixels = tiny.vision().blank("cpu")
    assert pixels.require_pixels().shape == (1, 3, tiny.TILE, tiny.TILE)
    assert not pixels.require_pixels().any()


def test_images_of_the_other_kind_are_refused_in_one_line() -> None:
    with_ids, text, _ = id_packs(0, tile=16, tokens_per_tile=4)
    model = tiny.model()
    with pytest.raises(ValueError, match=r"InternViT encodes pixels, and the images are ids of an image tokenizer"):
        model(with_ids)
    with pytest.raises(ValueError, match="InternViT encodes pixels, and the images are ids of an image tokenizer"):
        work(model, with_ids)
    with pytest.raises(ValueError, match="IdVision encodes ids"):
        small_model(vision=IdVision)(tiny.pack([("i", 1)]))
    model(text)


class Plain(Fuser):
    """Makes new features without context and valid sizes."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.in_features = self.out_features = in_features

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        assert features.context is not None
        assert features.valid_hw is not None
        return VisualFeatures([FeatureMap(features.primary.tokens, features.primary.hw)])


@pytest.mark.parametrize("fuser", [None, Plain])
def test_context_and_valid_sizes_reach_the_last_map(fuser: Any) -> None:
    context, sizes = torch.randn(2, 5), torch.tensor([[16, 12], [8, 16]])
    images = replace(tiny.pack([("i", 2)]).images, context=context, valid_hw=sizes)
    model = small_model(fuser=fuser)
    for features in (model.vision(images), model.encode(images)):
        assert features.context is context
        assert features.valid_hw is sizes
    merged = model.merger(model.vision(images))
    assert merged.context is context
    assert merged.valid_hw is sizes


def test_a_repeated_image_takes_the_memory_of_one() -> None:
    images = repeated(partial(IdVision, codebook=9)().blank("cpu"), 5)
    assert images.num_tiles == 5
    assert images.vq_ids.shape == (5, 4, 4)
    assert images.vq_ids.untyped_storage().nbytes() == 4 * 4 * 8
    assert images.tile_image.tolist() == [0, 1, 2, 3, 4]

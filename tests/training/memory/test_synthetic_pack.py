from __future__ import annotations

import pytest
import torch

import tiny
from mmcomponents.training.memory.synthetic_pack import pack_loss, synthetic_pack


def test_the_pack_is_one_that_the_model_takes() -> None:
    model = tiny.model()
    for tiles in (0, 3):
        batch = synthetic_pack(model, 20, tiles)
        assert tiny.logits(model, batch).shape == (20, tiny.VOCAB)
    with pytest.raises(ValueError, match="no vision encoder"):
        synthetic_pack(tiny.model(vision=None, merger=None, projector=None), 20, 1)


def test_the_tiles_of_the_pack_take_the_memory_of_one() -> None:
    with torch.device("meta"):
        model = tiny.model(vision=tiny.vision(image_size=4096, patch_size=1024))
    images = synthetic_pack(model, 10**6, 10**5).images
    assert images is not None
    assert images.pixels.shape == (10**5, 3, 4096, 4096)
    assert images.pixels.untyped_storage().nbytes() == 4 * 3 * 4096**2


def test_a_recipe_limits_the_tiles() -> None:
    model = tiny.model()
    assert [synthetic_pack(model, 64, None, most).images.num_tiles for most in (5, 48, None)] == [5, 12, 12]
    assert synthetic_pack(model, 1024, None).images.num_tiles == 48
    assert synthetic_pack(model, 1024, None, None).images.num_tiles == 192


def test_tiles_have_the_size_of_images_that_keep_their_aspect_ratio() -> None:
    pixels = synthetic_pack(tiny.model(), 64, 2, tile_hw=(16, 48)).images.pixels
    assert pixels.shape == (2, 3, 16, 48)


def test_the_loss_reads_every_head() -> None:
    model = tiny.model()
    batch = synthetic_pack(model, 32, None)
    for by_position in (False, True):
        model.zero_grad()
        pack_loss(model, batch, by_position).backward()
        assert all(p.grad is not None for p in model.parameters())

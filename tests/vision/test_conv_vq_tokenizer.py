"""The small image tokenizer. Contracts: tests/contracts."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from mmcomponents.batch import ImageBatch
from mmcomponents.vision.conv_vq_tokenizer import ConvVQTokenizer, patches
from mmcomponents.vision.vq_tokenizer import nearest_codes


def tokenizer() -> ConvVQTokenizer:
    made = ConvVQTokenizer(16, 32, 4, (8, 8))
    made.init_weights(0)
    return made


def images(count: int = 2) -> ImageBatch:
    return ImageBatch(torch.randn(count, 3, 16, 16), torch.arange(count))


def test_ids_are_those_of_the_nearest_codes_and_maps_are_what_they_say() -> None:
    made, batch = tokenizer(), images()
    features, codes, pixels = (part.tokens for part in made(batch).maps)
    ids = made.encode_ids(batch.require_pixels())
    assert ids.shape == (2, 4, 4)
    book = normalize(made.codebook, dim=1)
    nearest = torch.cdist(features.flatten(0, 1), book).argmin(1)
    assert torch.equal(ids.flatten(), nearest)
    assert torch.equal(codes.flatten(0, 1), book[nearest])
    torch.testing.assert_close(pixels, patches(made.decode_ids(ids), 4))
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2, 16))


def test_distances_are_computed_in_fp32_in_any_precision() -> None:
    features, codes = torch.randn(512, 4), torch.randn(4096, 4)
    halves = features.bfloat16(), codes.bfloat16()
    expected = torch.cdist(*(half.double() for half in halves)).argmin(1)
    assert torch.equal(nearest_codes(*halves), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_codes(features, codes), torch.cdist(features.double(), codes.double()).argmin(1))


def test_patches_have_the_pixels_of_their_places() -> None:
    pixels = torch.arange(3 * 8 * 8).float().view(1, 3, 8, 8)
    found = patches(pixels, 4)
    assert torch.equal(found[0, 1].view(3, 4, 4), pixels[0, :, :4, 4:])


def test_the_gradient_of_the_pixels_reaches_the_encoder_and_not_the_codes() -> None:
    made = tokenizer()
    made(images()).maps[2].tokens.square().sum().backward()
    assert made.encoder[0].weight.grad.abs().sum() > 0
    assert made.codebook.grad is None


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"widths must be one or more multiples of 8, got \(12,\)"):
        ConvVQTokenizer(widths=(12,))
    with pytest.raises(ValueError, match="a tile of 18 x 18 pixels is not a multiple of the patch size 4"):
        ConvVQTokenizer(18)
    with pytest.raises(ValueError, match="encodes pixels, and the images are ids"):
        tokenizer()(ImageBatch(None, torch.zeros(1).long(), vq_ids=torch.zeros(1, 4, 4).long()))

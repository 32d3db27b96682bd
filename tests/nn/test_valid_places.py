"""Padding of maps of unequal images."""

from __future__ import annotations

import torch
from torch import nn

from mmcomponents.nn.valid_places import MaskedGroupNorm, halved, inside, without_padding

VALID = torch.tensor([[3, 2], [4, 5]])


def test_which_places_are_inside() -> None:
    found = inside(VALID, (4, 5))
    assert found.sum((1, 2)).tolist() == [6, 20]
    assert found[0, :3, :2].all()
    assert halved(VALID).tolist() == [[2, 1], [2, 3]]
    assert halved(None) is None


def test_padding_becomes_zero() -> None:
    image = torch.ones(2, 3, 4, 5)
    assert without_padding(image, VALID).sum((1, 2, 3)).tolist() == [18, 60]
    assert without_padding(image, None) is image


def test_a_group_norm_is_that_of_the_image_alone() -> None:
    norm, plain = MaskedGroupNorm(2, 6), nn.GroupNorm(2, 6)
    for made in (norm, plain):
        nn.init.constant_(made.weight, 1.7)
        nn.init.constant_(made.bias, 0.2)
    image = torch.randn(2, 6, 4, 5)
    assert torch.allclose(norm(image), plain(image), atol=1e-6)
    found = norm(image, VALID)
    assert torch.allclose(found[:1, :, :3, :2], plain(image[:1, :, :3, :2]), atol=1e-5)
    assert torch.allclose(found[1:], plain(image[1:]), atol=1e-5)

"""Small autoencoder of pictures. Contracts: tests/contracts."""

from __future__ import annotations

import pytest
import torch

from mmcomponents.heads import ConvAutoencoder


def test_latents_have_the_declared_size_and_pictures_do_not_mix() -> None:
    made = ConvAutoencoder(8, None, 16, 3, (8, 16))
    pictures = torch.rand(2, 3, 16, 16) * 2 - 1
    mean, log_variance = made.moments(pictures)
    assert mean.shape == log_variance.shape == (2, made.latent_channels, made.latent_size, made.latent_size)
    assert torch.equal(made.encode(pictures), mean)
    assert made.decode(mean).shape == pictures.shape
    torch.testing.assert_close(made.encode(pictures[:1]), mean[:1])


def test_other_sizes_are_refused_with_both_numbers() -> None:
    made = ConvAutoencoder(8, None, 16)
    with pytest.raises(ValueError, match="picture of 12 x 16 pixels, and ConvAutoencoder encodes pictures of 16 x 16"):
        made.encode(torch.zeros(1, 3, 12, 16))
    with pytest.raises(ValueError, match="pictures of 18 pixels are not a multiple of 4"):
        ConvAutoencoder(8, None, 18)
    with pytest.raises(ValueError, match="multiples of 8"):
        ConvAutoencoder(8, None, 16, widths=(12,))

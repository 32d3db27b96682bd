"""Autoencoder of diffusers, such as that of SDXL."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmcomponents.heads.autoencoder import PictureAutoencoder


class DiffusersAutoencoder(PictureAutoencoder):
    """`AutoencoderKL` of diffusers (arXiv 2112.10752, section 3.1); needs the extra `diffusers`.

    Args:
        in_features: Width of the hidden states, which are not read.
        vocab_size: Vocabulary size, which is not used.
        config: Arguments of `AutoencoderKL`; `sample_size` is the side of a picture, `scaling_factor` the factor of
            latents in which a denoiser works.

    Raises:
        ModuleNotFoundError: diffusers is missing.
    """

    in_features: int

    def __init__(self, in_features: int, vocab_size: int | None, config: dict[str, Any]) -> None:
        from diffusers import AutoencoderKL

        super().__init__()
        made = AutoencoderKL(**config)
        own = made.config
        self.in_features, self.config = in_features, dict(config)
        self.picture_size, self.latent_channels = own.sample_size, own.latent_channels
        self.scale, self.factor = own.scaling_factor, 2 ** (len(own.block_out_channels) - 1)
        self.vae = made
        self.init_weights()

    def moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class."""
        found = self.vae.encode(pictures.to(self.vae.dtype)).latent_dist
        return found.mean, found.logvar

    def decode(self, latents: Tensor) -> Tensor:
        """See the base class."""
        pictures: Tensor = self.vae.decode(latents.to(self.vae.dtype)).sample
        return pictures

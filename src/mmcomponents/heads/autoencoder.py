"""Contract of autoencoders of pictures, whose latents a denoiser works on."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from mmcomponents.batch import ModelState, PackedBatch
from mmcomponents.extras import Pictures
from mmcomponents.heads.base import Head

FIELD = "pictures"
"""Name of the pictures among the extras of a pack."""


class PictureAutoencoder(Head):
    """Base class of variational autoencoders of pictures (Kingma and Welling 2013, arXiv 1312.6114).

    It is a head that reads nothing of the model's state: objectives and samplers call `encode` and `decode` where the
    model calls them with its heads, so that sharded weights are gathered. `PictureReconstruction` trains one; other
    recipes freeze it (`slots: {heads.autoencoder: {trainable: false}}`). Pictures are `[P, 3, H, W]` from -1 to 1.

    Attributes:
        picture_size: Side of a picture in pixels.
        factor: Pixels of a picture along one side of a place of the latents.
        latent_channels: Channels of the latents.
        scale: Factor that gives the latents of pictures a variance of about 1, in which a denoiser works.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    weight_methods: ClassVar[tuple[str, ...]] = ("moments", "encode", "decode")
    picture_size: int
    factor: int
    latent_channels: int
    scale: float

    @property
    def latent_size(self) -> int:
        """Side of the latents."""
        return self.picture_size // self.factor

    @abstractmethod
    def moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log-variance of latents.

        Args:
            pictures: `[P, 3, H, W]` from -1 to 1.

        Returns:
            `[P, latent_channels, h, w]` each.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Returns the pictures of latents.

        Args:
            latents: `[P, latent_channels, h, w]`, without `scale`.

        Returns:
            `[P, 3, H, W]` from -1 to 1.
        """

    def encode(self, pictures: Tensor) -> Tensor:
        """Returns the most likely latents, without `scale`.

        Args:
            pictures: `[P, 3, H, W]` from -1 to 1, of `picture_size` pixels a side.

        Returns:
            `[P, latent_channels, h, w]`, the means of `moments`.

        Raises:
            ValueError: The pictures have another size.
        """
        height, width = pictures.shape[-2:]
        if (height, width) != (self.picture_size, self.picture_size):
            raise ValueError(
                f"a picture of {height} x {width} pixels, and {type(self).__name__} encodes pictures of"
                f" {self.picture_size} x {self.picture_size}"
            )
        return self.moments(pictures)[0]

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        """Encodes and decodes the pictures of a pack, `[P, 3, H, W]`, P = 0 without pictures."""
        given = batch.extras.get(FIELD)
        blank = torch.zeros(1, 3, self.picture_size, self.picture_size, device=batch.input_ids.device)
        shown = given.target.tensor if isinstance(given, Pictures) else blank[:0]
        return self.decode(self.encode(shown if len(shown) else blank))[: len(shown)]

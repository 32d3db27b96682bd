"""Small convolutional autoencoder of pictures."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from mmcomponents.heads.autoencoder import PictureAutoencoder
from mmcomponents.limits import check_numbers, check_sizes
from mmcomponents.nn.pictures import GROUP, ResidualConv


class ConvAutoencoder(PictureAutoencoder):
    """Convolutional encoder of mean and log-variance, and a decoder of the same shape.

    Args:
        in_features: Width of the hidden states, which are not read.
        vocab_size: Vocabulary size, which is not used.
        picture_size: Side of a picture in pixels.
        latent_channels: Channels of the latents.
        widths: Channels before each halving of the resolution; a place of the latents has `2 ** len(widths)` pixels.
        scale: Factor of latents in which a denoiser works.

    Raises:
        ValueError: A size is out of range, a width is not a multiple of 8, or the picture of the patch.
    """

    in_features: int

    def __init__(
        self,
        in_features: int,
        vocab_size: int | None,
        picture_size: int = 32,
        latent_channels: int = 4,
        widths: tuple[int, ...] = (16, 32),
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_sizes(picture_size=picture_size, latent_channels=latent_channels)
        check_sizes(**{f"widths[{n}]": width for n, width in enumerate(widths)})
        check_numbers(scale=scale)
        if not widths or any(width % GROUP for width in widths):
            raise ValueError(f"widths must be one or more multiples of {GROUP}, got {tuple(widths)}")
        self.in_features, self.picture_size, self.latent_channels = in_features, picture_size, latent_channels
        self.widths, self.scale, self.factor = tuple(widths), scale, 2 ** len(widths)
        if picture_size % self.factor:
            raise ValueError(f"pictures of {picture_size} pixels are not a multiple of {self.factor}, 2 ** len(widths)")
        down: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(latent_channels, widths[-1], 3, padding=1), ResidualConv(widths[-1])]
        for before, after in pairwise((*widths, widths[-1])):
            down += [ResidualConv(before), nn.Conv2d(before, after, 4, 2, 1)]
        for before, after in pairwise((widths[-1], *reversed(widths))):
            up += [nn.Upsample(scale_factor=2.0), nn.Conv2d(before, after, 3, padding=1), ResidualConv(after)]
        ends = (nn.GroupNorm(widths[-1] // GROUP, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], 2 * latent_channels, 1))
        self.encoder = nn.Sequential(*down, ResidualConv(widths[-1]), *ends)
        pixels = nn.Conv2d(widths[0], 3, 3, padding=1)
        self.decoder = nn.Sequential(*up, nn.GroupNorm(widths[0] // GROUP, widths[0]), nn.SiLU(), pixels)
        self.init_weights()

    def moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class; the log-variance is from -30 to 20."""
        mean, log_variance = self.encoder(pictures.to(next(self.parameters()).dtype)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def decode(self, latents: Tensor) -> Tensor:
        """See the base class."""
        pictures: Tensor = self.decoder(latents.to(next(self.parameters()).dtype))
        return pictures

"""Contract of networks that estimate noise in the latents of pictures."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmcomponents.component import Component


class Denoiser(Component):
    """Base class of denoisers of latents, which are an argument of the head `Condition`.

    Attributes:
        latent_channels: Channels of the latents, c.
        latent_size: Side of the latents that it is built for; None: any.
        context_width: Width of the tokens that it reads by cross-attention.
        pooled_width: Width of the vector that is added to the noise level's.
    """

    latent_channels: int
    latent_size: int | None
    context_width: int
    pooled_width: int

    @abstractmethod
    def forward(self, latents: Tensor, level: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        """Estimates what the schedule of the head predicts, the noise or the latents without it.

        Args:
            latents: `[P, 3c, h, w]`: noisy latents, those of the reference picture, and those of the layout. At the
                start, the last two change nothing (`WidenedConv`).
            level: `[P]` int64 noise levels.
            context: `[P, n, context_width]`.
            pooled: `[P, pooled_width]`.

        Returns:
            `[P, c, h, w]`.
        """

    def flops_of(self, height: int, width: int) -> float:
        """Returns the floating-point operations for one picture with latents of this size; 0 if they are unknown."""
        return 0.0

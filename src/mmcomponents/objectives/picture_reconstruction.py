"""Training of an autoencoder of pictures."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmcomponents.batch import LossOutput, ModelState, PackedBatch
from mmcomponents.component import Composition
from mmcomponents.limits import check_numbers
from mmcomponents.nn.pictures import canvases
from mmcomponents.nn.runtime import Runtime
from mmcomponents.objectives.base import Model, Objective, check_head
from mmcomponents.objectives.picture_fields import (
    PICTURES,
    check_pictures,
    count_boxes,
    picture_fields,
    picture_segments,
)


class PictureReconstruction(Objective):
    """Squared error of decoded pictures, plus the divergence of their latents from a normal distribution.

    The model stops before its language side. Pictures and the canvases of their boxes are learnt alike, since both are
    encoded for a denoiser. Both terms are means over the step.
    Source: Kingma and Welling 2013, arXiv 1312.6114, with a small weight as in arXiv 2112.10752, section 3.1.

    Args:
        autoencoder: Name of the head.
        divergence: Weight of the divergence, a mean over the values of the latents.

    Raises:
        ValueError: The weight is negative.
    """

    needs = ("visual",)
    denominator = PICTURES
    validated = MappingProxyType({"pixels": PICTURES, "divergence": PICTURES})

    def __init__(self, autoencoder: str = "autoencoder", divergence: float = 1e-3) -> None:
        super().__init__()
        check_numbers(divergence=divergence)
        self.autoencoder, self.divergence = autoencoder, divergence
        self.needs_heads = (autoencoder,)

    def check(self, model: Composition) -> None:
        """Checks that the head is an autoencoder.

        Raises:
            WiringError: It is not.
        """
        check_head(self, model, self.autoencoder, "moments", "ConvAutoencoder")

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Counts the pictures and canvases.

        Raises:
            WiringError: Pictures and segments with queries differ in number.
        """
        count = float(check_pictures(batch) + count_boxes(batch))
        return {PICTURES: count, "targets": count}

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Computes the share of the pack in the loss of the step; zero without pictures."""
        is_empty = not len(picture_segments(batch))
        share = 0.0 if is_empty else 1 / max(totals[PICTURES], 1.0)

        def read(heads: nn.ModuleDict, state: ModelState) -> tuple[Tensor, Tensor]:
            codec: Any = heads[self.autoencoder]
            given, side = picture_fields(batch, codec.picture_size), codec.picture_size
            drawn = canvases(given.box, given.colour, (side, side)).to(given.target.dtype)
            shown = torch.cat((given.target, drawn))
            mean, log_variance = codec.moments(shown)
            noise = _noise(batch, mean, given.owner)
            decoded = codec.decode(mean + noise * (log_variance / 2).exp())
            wide = torch.promote_types(decoded.dtype, torch.float32)
            error = (decoded.to(wide) - shown.to(wide)).square()
            spread = (mean.square() + log_variance.exp() - 1 - log_variance).to(wide) / 2
            return error.flatten(1).mean(1).sum() * share, spread.flatten(1).mean(1).sum() * share

        pixels, divergence = model(batch, Runtime(needs=self.needs), read=read)
        total = pixels + self.divergence * divergence
        parts = {"loss": total.detach(), "pixels": pixels.detach(), "divergence": divergence.detach()}
        return LossOutput(total, parts)


def _noise(batch: PackedBatch, latents: Tensor, owner: Tensor) -> Tensor:
    """Returns noise like the latents of pictures and of their canvases, which depends on their samples alone."""
    own = {*picture_segments(batch).tolist()}
    chosen = [draw for segment, draw in enumerate(batch.generators(PICTURES)) if segment in own]
    if not chosen:
        return torch.zeros_like(latents)
    numbers = torch.bincount(owner, minlength=len(chosen)).tolist()
    each = [
        draw.standard_normal((1 + number, *latents.shape[1:]), dtype=np.float32)
        for draw, number in zip(chosen, numbers, strict=True)
    ]
    ordered = np.concatenate([*(one[:1] for one in each), *(one[1:] for one in each)])
    return torch.from_numpy(ordered).to(latents.device, latents.dtype)

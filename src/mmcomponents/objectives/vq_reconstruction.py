"""Training of an image tokenizer."""

from __future__ import annotations

from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, pixel_unshuffle

from mmcomponents.batch import LossOutput, ModelState, PackedBatch, VisualFeatures
from mmcomponents.component import Composition, WiringError
from mmcomponents.limits import check_numbers
from mmcomponents.nn.runtime import Runtime
from mmcomponents.objectives.base import Model, Objective


class VQReconstruction(Objective):
    """Squared error of decoded pixels, plus the distances of features and codes (VQ-VAE, arXiv 1711.00937, equation 3).

    The encoder gives three maps: features, codes and decoded pixels, see `ConvVQTokenizer`. Codes move to the features,
    and features to the codes at `commitment` times the rate. All terms are means over tiles.

    Args:
        codebook: Weight of the distance that moves codes.
        commitment: Weight of the distance that moves features.
    """

    needs = ("visual",)
    denominator = "tiles"
    validated = MappingProxyType({"pixels": "tiles", "codes": "tiles"})

    def __init__(self, codebook: float = 1.0, commitment: float = 0.25) -> None:
        super().__init__()
        check_numbers(codebook=codebook, commitment=commitment)
        self.codebook, self.commitment = codebook, commitment

    def check(self, model: Composition) -> None:
        """Checks that the encoder is a tokenizer, and that nothing changes its maps.

        Raises:
            WiringError: It is not, or a part does.
        """
        widths = getattr(model.vision, "hidden_size", None)
        patch = getattr(model.vision, "patch_size", 0)
        if not isinstance(widths, tuple) or len(widths) != 3 or widths[2] != 3 * patch**2:
            raise WiringError(
                f"{type(self).__name__} needs maps of features, codes and pixels of patches, and"
                f" {type(model.vision).__name__} gives maps of width {widths}: use ConvVQTokenizer"
            )
        for part in (model.fuser, model.merger):
            if part is not None:
                raise WiringError(
                    f"{type(self).__name__} reads the tokenizer's maps, which {type(part).__name__} changes"
                )

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Counts the tiles, each of which is a target."""
        tiles = 0.0 if batch.images is None else float(batch.images.num_tiles)
        return {"tiles": tiles, "targets": tiles}

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Computes the share of the pack in the loss of the step; zero without images."""

        def read(heads: nn.ModuleDict, state: ModelState) -> VisualFeatures:
            return cast(VisualFeatures, state.visual)

        found = model(batch, Runtime(needs=self.needs), read)
        features, codes, decoded = (part.tokens.float() for part in found.maps)
        if batch.images is None:  # the blank tile
            nothing = torch.stack([value.sum() for value in (features, codes, decoded)]).sum() * 0.0
            return LossOutput(nothing, dict.fromkeys(("loss", "pixels", "codes"), nothing.detach()))
        pixels = batch.images.require_pixels()
        true = pixel_unshuffle(pixels.float(), pixels.shape[-2] // found.primary.hw[0]).flatten(2).mT
        share = pixels.shape[0] / max(totals["tiles"], 1.0)
        error = mse_loss(decoded, true) * share
        moved = _distance(codes, features.detach()) * share
        held = _distance(features, codes.detach()) * share
        total = error + self.codebook * moved + self.commitment * held
        return LossOutput(total, {"loss": total.detach(), "pixels": error.detach(), "codes": moved.detach()})


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().sum(-1).mean()

"""The projector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmcomponents.batch import PackedBatch, VisualFeatures
from mmcomponents.projectors import Projector
from mmcomponents.projectors.base import num_addressed, one_map


class PlaceProjector(Projector):
    """Linear map of each visual token and of the place that it has in its tile.

    A place is written as sines and cosines of its coordinates (Tancik et al. 2020, arXiv 2006.10739), so that words and
    actions can depend on where something is.

    Args:
        in_features: Width of the visual tokens.
        out_features: Width of the backbone.
        num_frequencies: Number of frequencies of each coordinate: half a wave over the tile, one, two, …
    """

    def __init__(self, in_features: int | tuple[int, ...], out_features: int, num_frequencies: int = 4) -> None:
        super().__init__()
        self.in_features, self.out_features = one_map(self, in_features), out_features
        if num_frequencies < 1:
            raise ValueError(f"num_frequencies must be at least 1, got {num_frequencies}")
        self.num_frequencies = num_frequencies
        self.token = nn.Linear(self.in_features, out_features)
        self.place = nn.Linear(4 * num_frequencies, out_features, bias=False)
        self.init_weights()

    def forward(self, features: VisualFeatures, embedding_weight: Tensor | None = None) -> Tensor:
        """Projects the primary map, `[N, n, in_features]` to `[N, n, out_features]`."""
        feature_map = features.primary
        where = places(feature_map.hw, self.num_frequencies).to(feature_map.tokens)
        tokens: Tensor = self.token(feature_map.tokens) + self.place(where)
        return tokens

    def flops(self, batch: PackedBatch) -> float:
        """Counts the map of the tokens, over those that the pack points to."""
        return 2.0 * num_addressed(batch) * self.token.weight.numel()


def places(hw: tuple[int, int], num_frequencies: int) -> Tensor:
    """Returns `[rows * columns, 4 * num_frequencies]`, the sines and cosines of the middle of each place."""
    middles = [(torch.arange(side) + 0.5) / side for side in hw]
    points = torch.cartesian_prod(*middles)  # row by row
    angles = points[:, :, None] * math.pi * 2.0 ** torch.arange(num_frequencies)
    return torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(1)

"""U-like feature interaction (UFI): fuses all layers of an encoder (MI-DETR, arXiv 2503.01463, with the released code).

Reference code: CQU-ADHRI-Lab/MI-DETR.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from mmcomponents.batch import VisualFeatures
from mmcomponents.fusers.base import Fuser
from mmcomponents.fusers.channel_mapper import ChannelMapper
from mmcomponents.fusers.deformable_encoder import DeformableEncoder, Width


class UFIEncoder(DeformableEncoder):
    """Deformable encoder that returns the levels of every layer, each but the last one fused with the last one.

    Layer i < L becomes `norm(linear([E_L, E_i]))` with weights of its own; layer L stays E_L. The maps are in the order
    of the layers. A detection head reads them from the last to the first: its layer 1 reads E_L, its layer L what was
    made of E_1.

    Args:
        in_features: See `DeformableEncoder`.
        neck: See `DeformableEncoder`.
        num_layers: See `DeformableEncoder`.
        num_heads: See `DeformableEncoder`.
        num_points: See `DeformableEncoder`.
        intermediate_size: See `DeformableEncoder`.
    """

    starts_from = ("DeformableEncoder",)

    def __init__(
        self,
        in_features: Width,
        neck: Callable[[Width], Fuser] = ChannelMapper,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        intermediate_size: int = 2048,
    ) -> None:
        super().__init__(in_features, neck, num_layers, num_heads, num_points, intermediate_size)
        self.out_features = (self.width,) * (self.num_levels * num_layers)
        self.linear = nn.ModuleList(nn.Linear(2 * self.width, self.width) for _ in range(num_layers - 1))
        self.norm = nn.ModuleList(nn.LayerNorm(self.width) for _ in range(num_layers - 1))
        self.init_weights()

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Encodes maps `[N, h*w, C]` as the levels of layer 1, then those of layer 2, and so on."""
        *earlier, last = self.layers(features)
        maps = []
        for linear, norm, levels in zip(self.linear, self.norm, earlier, strict=True):
            for level, deepest in zip(levels, last, strict=True):
                both = torch.cat((deepest.tokens, level.tokens), dim=-1)
                maps.append(replace(level, tokens=norm(linear(both))))
        return replace(features, maps=[*maps, *last])

    def map_flops(self, num_tiles: int, hw: tuple[int, int]) -> float:
        """Counts a linear map of each layer but the last besides the encoder."""
        places = sum(rows * columns for rows, columns in self._grids(hw))
        fused = 2.0 * num_tiles * places * 2 * self.width * self.width * len(self.linear)
        return super().map_flops(num_tiles, hw) + fused

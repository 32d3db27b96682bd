"""Projector of several maps of one image (PIIP for language models, arXiv 2501.07783).

Reference code: OpenGVLab/PIIP.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate

from mmcomponents.batch import FeatureMap, PackedBatch, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.limits import check_sizes
from mmcomponents.nn.nf4_linear import linear_weights
from mmcomponents.projectors.base import Projector, num_addressed


class TwoMap(Projector):
    """Projects each of two or more maps with Linear, GroupNorm, GELU and Linear, and sums them.

    The maps are resized bilinearly to the grid of the last one, whose places are the visual tokens.

    Args:
        in_features: Widths of the maps.
        out_features: Width of the backbone.
        num_groups: Number of groups of the norms, which divides `out_features`.

    Raises:
        WiringError: There is one map only.
    """

    def __init__(self, in_features: int | tuple[int, ...], out_features: int, num_groups: int = 32) -> None:
        super().__init__()
        if not isinstance(in_features, tuple) or len(in_features) < 2:
            raise WiringError(f"TwoMap projects several feature maps and is given one: {in_features}")
        check_sizes(out_features=out_features, num_groups=num_groups)
        if out_features % num_groups:
            raise ValueError(f"out_features {out_features} is not a multiple of num_groups {num_groups}")
        self.in_features, self.num_groups = in_features, num_groups
        self.out_features = out_features
        self.fc1 = nn.ModuleList(nn.Linear(width, out_features) for width in in_features)
        self.norm = nn.ModuleList(nn.GroupNorm(num_groups, out_features) for _ in in_features)
        self.fc2 = nn.ModuleList(nn.Linear(out_features, out_features) for _ in in_features)
        self.init_weights()

    def flops(self, batch: PackedBatch) -> float:
        """Counts the matrices of all maps over the visual tokens that the pack points to."""
        return 2.0 * num_addressed(batch) * linear_weights(self)

    def forward(self, features: VisualFeatures, embedding_weight: Tensor | None = None) -> Tensor:
        """Projects maps `[N, h*w, C]` to `[N, n, out_features]`, n being the places of the last map."""
        hw = features.primary.hw
        total: Tensor | None = None
        for fc1, norm, fc2, source in zip(self.fc1, self.norm, self.fc2, features.maps, strict=True):
            hidden = norm(fc1(resized(source, hw)).transpose(1, 2)).transpose(1, 2)
            own = fc2(gelu(hidden))
            total = own if total is None else total + own
        assert total is not None
        return total


def resized(source: FeatureMap, hw: tuple[int, int]) -> Tensor:
    """Returns the tokens of a map `[N, h*w, C]`, resized bilinearly to another grid, `[N, h'*w', C]`."""
    if source.hw == hw:
        return source.tokens
    image = source.tokens.transpose(1, 2).unflatten(2, source.hw).float()
    found = interpolate(image, size=hw, mode="bilinear", align_corners=False)
    return found.flatten(2).transpose(1, 2).to(source.tokens.dtype)

"""Linear projector.

Reference code: haotian-liu/LLaVA.
"""

from __future__ import annotations

from torch import Tensor, nn

from mmcomponents.batch import PackedBatch, VisualFeatures
from mmcomponents.limits import check_sizes
from mmcomponents.nn.nf4_linear import linear_weights
from mmcomponents.projectors.base import Projector, num_addressed, one_map


class LinearProjector(Projector):
    """Linear map (LLaVA, arXiv 2304.08485, section 4.1).

    Args:
        in_features: Width of the visual tokens.
        out_features: Width of the backbone.
        bias: Whether the map has a bias.
    """

    def __init__(self, in_features: int | tuple[int, ...], out_features: int, bias: bool = True) -> None:
        super().__init__()
        in_features = one_map(self, in_features)
        check_sizes(in_features=in_features, out_features=out_features)
        self.in_features = in_features
        self.out_features = out_features
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.init_weights()

    def flops(self, batch: PackedBatch) -> float:
        """Counts one matrix over the visual tokens that the pack points to."""
        tokens = num_addressed(batch)
        return 2.0 * tokens * linear_weights(self)

    def forward(self, features: VisualFeatures, embedding_weight: Tensor | None = None) -> Tensor:
        """Projects the primary map, `[N, n, in_features]` to `[N, n, out_features]`."""
        out: Tensor = self.linear(features.primary.tokens)
        return out

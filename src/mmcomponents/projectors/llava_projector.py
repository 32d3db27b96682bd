"""Projector of LLaVA-1.5 (Liu et al. 2023, arXiv 2310.03744, section 3.3).

Reference code: haotian-liu/LLaVA.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu

from mmcomponents.batch import PackedBatch, VisualFeatures
from mmcomponents.limits import check_sizes
from mmcomponents.nn.nf4_linear import linear_weights
from mmcomponents.nn.recompute import recomputed_input
from mmcomponents.projectors.base import Projector, num_addressed, one_map


class LlavaProjector(Projector):
    """Projects visual tokens with Linear, GELU and Linear, without a norm.

    Args:
        in_features: Width of the visual tokens.
        out_features: Width of the backbone.
    """

    def __init__(self, in_features: int | tuple[int, ...], out_features: int) -> None:
        super().__init__()
        in_features = one_map(self, in_features)
        check_sizes(in_features=in_features, out_features=out_features)
        self.in_features = in_features
        self.out_features = out_features
        self.fc1 = nn.Linear(in_features, out_features)
        self.fc2 = nn.Linear(out_features, out_features)
        self.init_weights()

    def flops(self, batch: PackedBatch) -> float:
        """Counts two matrices over the visual tokens that the pack points to."""
        return 2.0 * num_addressed(batch) * linear_weights(self)

    def forward(self, features: VisualFeatures, embedding_weight: Tensor | None = None) -> Tensor:
        """Projects the primary map, `[N, n, in_features]` to `[N, n, out_features]`."""
        return recomputed_input(self.fc2, gelu, self.fc1(features.primary.tokens))

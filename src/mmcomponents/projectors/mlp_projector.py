"""MLP projector of InternVL.

Reference code: OpenGVLab/InternVL.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu

from mmcomponents.batch import PackedBatch, VisualFeatures
from mmcomponents.limits import check_numbers, check_sizes
from mmcomponents.nn.nf4_linear import linear_weights
from mmcomponents.nn.recompute import recomputed_input
from mmcomponents.projectors.base import Projector, num_addressed, one_map


class MLPProjector(Projector):
    """LayerNorm, Linear, GELU (erf), Linear, with biases (InternVL 1.5, arXiv 2404.16821, section 3.1).

    Args:
        in_features: Width of the visual tokens.
        out_features: Width of the backbone.
        eps: Epsilon of the LayerNorm.
    """

    def __init__(self, in_features: int | tuple[int, ...], out_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        in_features = one_map(self, in_features)
        check_sizes(in_features=in_features, out_features=out_features)
        check_numbers(eps=eps)
        self.in_features = in_features
        self.out_features = out_features
        self.norm = nn.LayerNorm(in_features, eps=eps)
        self.fc1 = nn.Linear(in_features, out_features)
        self.fc2 = nn.Linear(out_features, out_features)
        self.init_weights()

    def flops(self, batch: PackedBatch) -> float:
        """Counts two matrices over the visual tokens that the pack points to."""
        tokens = num_addressed(batch)
        return 2.0 * tokens * linear_weights(self)

    def forward(self, features: VisualFeatures, embedding_weight: Tensor | None = None) -> Tensor:
        """Projects the primary map, `[N, n, in_features]` to `[N, n, out_features]`."""
        return recomputed_input(self.fc2, gelu, self.fc1(self.norm(features.primary.tokens)))

"""A custom projector, used in the quickstart.

    PYTHONPATH=examples mmcomponents fit --config quickstart --model.projector own_projector.GatedProjector

This requires the quickstart's data: `mmcomponents data handwriting --out data/handwriting`.
"""

from __future__ import annotations

from torch import Tensor, nn

from mmcomponents.batch import VisualFeatures
from mmcomponents.projectors import Projector


class GatedProjector(Projector):
    """Linear projection with a gate.

    Args:
        in_features: Width of the visual tokens.
        out_features: Width of the backbone.
        temperature: Divisor of the gate's logits.
    """

    def __init__(self, in_features: int, out_features: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.linear = nn.Linear(in_features, out_features)
        self.gate = nn.Linear(in_features, out_features)
        self.temperature = temperature
        self.init_weights()

    def forward(self, features: VisualFeatures, embedding_weight: Tensor | None = None) -> Tensor:
        """Projects `[N, n, in_features]` to `[N, n, out_features]`."""
        tokens = features.primary.tokens
        out: Tensor = self.linear(tokens) * (self.gate(tokens) / self.temperature).sigmoid()
        return out

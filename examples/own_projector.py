"""A projector of one's own, swapped into the quickstart.

    PYTHONPATH=examples mmcomponents fit --config quickstart --model.projector own_projector.GatedProjector

Train the quickstart's data first: `mmcomponents data handwriting --out data/handwriting`.
"""

from __future__ import annotations

from torch import Tensor, nn

from mmcomponents.batch import VisualFeatures
from mmcomponents.projectors import Projector


class GatedProjector(Projector):
    """A linear map with a gate.

    Args:
        in_features: Width of the visual tokens.
        out_features: Width of the backbone.
        temperature: The gate's logits are divided by it.
    """

    def __init__(self, in_features: int, out_features: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.linear = nn.Linear(in_features, out_features)
        self.gate = nn.Linear(in_features, out_features)
        self.temperature = temperature
        self.init_weights()

    def forward(self, features: VisualFeatures, word_table: Tensor | None = None) -> Tensor:
        """Projects `[N, n, in_features]` to `[N, n, out_features]`."""
        tokens = features.primary.tokens
        out: Tensor = self.linear(tokens) * (self.gate(tokens) / self.temperature).sigmoid()
        return out

"""Projectors compared with plain torch, and projectors that need the embedding weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import tiny
from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.embedders import Embedder
from mmcomponents.projectors import LinearProjector, MLPProjector, Projector


def features(width: int = 12) -> VisualFeatures:
    return VisualFeatures([FeatureMap(torch.randn(3, 4, width), (2, 2))])


def test_mlp_is_norm_linear_gelu_linear() -> None:
    projector, given = MLPProjector(12, 20, eps=1e-3), features()
    state = projector.state_dict()
    plain = nn.Sequential(nn.LayerNorm(12, eps=1e-3), nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 20))
    names = ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias")
    ours = ("norm.weight", "norm.bias", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
    plain.load_state_dict({name: state[own] for name, own in zip(names, ours, strict=True)})
    torch.testing.assert_close(projector(given), plain(given.primary.tokens))


@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_one_map(bias: bool) -> None:
    projector, given = LinearProjector(12, 20, bias=bias), features()
    assert (projector.linear.bias is not None) == bias
    torch.testing.assert_close(projector(given), projector.linear(given.primary.tokens))


class Asking(LinearProjector):
    """Adds the mean of the embedding weight if `asks` is set."""

    def __init__(self, in_features: int, out_features: int, asks: bool = True) -> None:
        super().__init__(in_features, out_features)
        self.needs_embedding_weight = asks

    def forward(self, features: VisualFeatures, embedding_weight: Tensor | None = None) -> Tensor:
        out = super().forward(features)
        assert (embedding_weight is not None) == self.needs_embedding_weight
        return out if embedding_weight is None else out + embedding_weight.mean(0)


def test_an_instance_decides_whether_it_is_given_the_embedding_weight() -> None:
    batch = tiny.pack([("t", 3), ("i", 1)])
    asking, plain = (tiny.model(projector=Asking(4 * tiny.VISION, tiny.WIDTH, asks)) for asks in (True, False))
    mean = asking.embedder.embedding_weight().mean(0)
    torch.testing.assert_close(asking(batch).visual_tokens, plain(batch).visual_tokens + mean)
    assert Projector.needs_embedding_weight is False


class Wordless(Embedder):
    """Embedder without an embedding weight."""

    hidden_size = tiny.WIDTH

    def embedding_weight(self) -> None:
        """Returns None."""

    def forward(self, batch, visual_tokens, runtime=None):
        return torch.zeros(batch.num_tokens, self.hidden_size)


@pytest.mark.parametrize(
    ("embedder", "message"),
    [
        (None, "Asking needs the embedding weight and the embedder slot is empty"),
        (Wordless(), "Asking needs the embedding weight and Wordless has none"),
    ],
)
def test_a_missing_embedding_weight_is_refused_at_composition(embedder: Embedder | None, message: str) -> None:
    with pytest.raises(WiringError, match=message):
        tiny.model(embedder=embedder, projector=Asking(4 * tiny.VISION, tiny.WIDTH))


@pytest.mark.parametrize("made", [LinearProjector, MLPProjector])
def test_a_pack_without_tokens_points_to_no_visual_tokens(made: type[Projector]) -> None:
    assert made(8, 4).flops(tiny.pack([])) == 0.0

"""Contract of fusers, tested with one that combines the levels of an encoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tiny
from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.fusers import Fuser


class MeanFuser(Fuser):
    """Applies a linear map to the mean of several maps of one width."""

    def __init__(self, in_features: tuple[int, ...]) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, in_features[0]
        self.linear = nn.Linear(in_features[0], in_features[0])
        self.init_weights()

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        mean = torch.stack([m.tokens for m in features.maps]).mean(0)
        return VisualFeatures([FeatureMap(self.linear(mean), features.primary.hw)])


def test_a_fuser_turns_several_maps_into_what_the_merger_takes() -> None:
    vision = tiny.vision(levels=(1, 2))
    fuser = MeanFuser(vision.hidden_size)
    model = tiny.model(vision=vision, fuser=fuser)
    batch = tiny.pack([("t", 3), ("i", 2)])
    features = vision(batch.images)
    assert len(features.maps) == 2
    expected = model.project(model.merger(fuser(features)))
    assert torch.equal(model(batch).visual_tokens, expected)


def test_a_fuser_that_takes_other_maps_is_refused() -> None:
    with pytest.raises(WiringError, match=r"InternViT gives maps of width 24 and MeanFuser takes \(24, 24\)"):
        tiny.model(fuser=MeanFuser((24, 24)))

from __future__ import annotations

import torch

import tiny
from contracts.tiny_parts import GatedFuser
from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import Exact, FeatureMap, VisualFeatures
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.objectives import NextToken
from mmcomponents.positions import RoPE
from mmcomponents.projectors import LinearProjector
from mmcomponents.vision import InternViT
from testing.contracts.broken import failure

VISION = tiny.vision_factory().keywords
SIZES = {"hidden_size": tiny.WIDTH, "num_layers": 1, "num_heads": 4, "intermediate_size": 48}


class OneMore(PixelUnshuffle):
    def num_tokens(self, hw):
        return super().num_tokens(hw) + 1


class OddMaps(PixelUnshuffle):
    """Accepts in `forward` what `num_tokens` refuses."""

    def forward(self, features):
        if features.primary.hw[0] % 2 or features.primary.hw[1] % 2:
            return features
        return super().forward(features)


class Transposed(InternViT):
    def forward(self, images):
        found = super().forward(images).primary
        return VisualFeatures([FeatureMap(found.tokens, found.hw[::-1])])


class Smaller(GatedFuser):
    """Halves the map without saying so in `grid`."""

    def forward(self, features):
        fused = super().forward(features).primary
        rows, columns = fused.hw
        tokens = fused.tokens.unflatten(1, fused.hw)[:, ::2].flatten(1, 2)
        return VisualFeatures([FeatureMap(tokens, (rows // 2, columns))])


class Nameless(LinearProjector):
    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        del self.out_features


class Swapped(LinearProjector):
    def forward(self, features, embedding_weight=None):
        return super().forward(features).transpose(1, 2)


class FloatTicks(RoPE):
    def ticks(self, layout):
        return super().ticks(layout).float()


class HalfTables(RoPE):
    def rotary(self, layout):
        return Exact(*(table.half() for table in super().rotary(layout)))


class Shorter(DecoderLM):
    def forward(self, x, layout, rotary=None, cache=None):
        return super().forward(x, layout, rotary, cache)[:-1]


class Wide(TokenEmbedder):
    def embedding_weight(self):
        return super().embedding_weight().T


class FixedCount(NextToken):
    def counts(self, batch):
        return {"weight": 10.0}


class OtherName(NextToken):
    def counts(self, batch):
        return {"tokens": super().counts(batch)["weight"]}


def test_a_merger_that_counts_a_token_too_many() -> None:
    assert "num_tokens of a map of 2 x 2 is 2, tokens: 1" in failure("declared_sizes", "merger", OneMore)


def test_a_merger_that_takes_what_num_tokens_refuses() -> None:
    said = failure("declared_sizes", "merger", OddMaps)
    assert "num_tokens refuses maps of 1 x 1 and forward accepts them" in said


def test_a_vision_encoder_whose_grid_is_transposed() -> None:
    said = failure("declared_sizes", "vision", lambda: Transposed(**VISION))
    assert "the primary map of 16 x 32 pixels is (8, 4), grid says (4, 8)" in said


def test_a_fuser_whose_grid_is_not_what_comes_out() -> None:
    said = failure("declared_sizes", "fuser", Smaller, neighbours={"vision": tiny.vision_factory(levels=(1, 2))})
    assert "the primary map fused from 4 x 4 is (2, 4), grid says (4, 4)" in said


def test_a_part_without_a_width() -> None:
    said = failure("declared_sizes", "projector", Nameless)
    assert said == "the part has no out_features, which wiring checks read"


def test_shapes() -> None:
    said = failure("declared_sizes", "projector", Swapped)
    assert "projected tokens have the shape [2, 32, 4], declared is [2, 4, 32]" in said
    assert "the shape [" in failure("declared_sizes", "backbone", lambda: Shorter(**SIZES))
    assert "the embedding weight has the shape [32, 64], declared is [64, 32]" in failure(
        "declared_sizes", "embedder", Wide
    )


def test_positions() -> None:
    assert "ticks are torch.float32, not int64" in failure("declared_sizes", "position", FloatTicks)
    assert "cosines are torch.float16, not float32" in failure("declared_sizes", "position", HalfTables)


class CountsPixels(NextToken):
    def counts(self, batch):
        bright = 0.0 if batch.images is None else float((batch.images.pixels > 0).sum())
        return {**super().counts(batch), "bright": bright}


class Unnamed(NextToken):
    """Uses a head that `needs_heads` does not name."""

    def __init__(self):
        super().__init__()
        self.needs_heads = ()


class OneLogitMore(LMHead):
    def forward(self, state, batch):
        return torch.nn.functional.pad(super().forward(state, batch), (0, 1))


def test_what_an_objective_uses() -> None:
    assert failure("declared_sizes", "objective", CountsPixels).startswith("counts depend on pixels")
    assert failure("declared_sizes", "objective", Unnamed).startswith("KeyError: 'lm'")


def test_logits_are_as_wide_as_the_vocabulary() -> None:
    said = failure("declared_sizes", "head", OneLogitMore)
    assert "logits have the shape [" in said
    assert ", 65], declared is [" in said


def test_counts_of_an_objective() -> None:
    assert "count 'weight' of a pack and of its samples" in failure("declared_sizes", "objective", FixedCount)
    assert "counts returns tokens without 'weight'" in failure("declared_sizes", "objective", OtherName)

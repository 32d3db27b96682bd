from __future__ import annotations

from dataclasses import replace

import torch

import tiny
from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.objectives import NextToken
from mmcomponents.projectors import LinearProjector
from mmcomponents.testing import text_packs
from testing.contracts.broken import failure


class WithoutBoundaries(DecoderLM):
    def forward(self, x, layout, rotary=None, cache=None):
        joined = torch.tensor([0, layout.num_tokens], dtype=torch.int32)
        return super().forward(x, replace(layout, cu_seqlens=joined, max_seqlen=layout.num_tokens), rotary, cache)


class MeanOfThePack(LinearProjector):
    """Subtracts the mean over all tiles of the pack."""

    def forward(self, features, embedding_weight=None):
        tokens = features.primary.tokens - features.primary.tokens.mean(0, keepdim=True)
        return super().forward(VisualFeatures([FeatureMap(tokens, features.primary.hw)]))


class InTraining(MeanOfThePack):
    def forward(self, features, embedding_weight=None):
        return super().forward(features) if self.training else LinearProjector.forward(self, features)


class OfOneLength(DecoderLM):
    """Mixes segments if all have one length, as a batched path may."""

    def forward(self, x, layout, rotary=None, cache=None):
        out, lengths = super().forward(x, layout, rotary, cache), layout.cu_seqlens.diff()
        return out + out.mean(0) if len(lengths) > 1 and len(lengths.unique()) == 1 else out


class SwappedTiles(PixelUnshuffle):
    """Swaps the first tokens of tiles 2 n and 2 n + 1 of the pack."""

    def forward(self, features):
        merged = super().forward(features)
        tokens, even = merged.primary.tokens.clone(), len(merged.primary.tokens) // 2 * 2
        tokens[:even, 0] = merged.primary.tokens[:even, 0].unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
        return VisualFeatures([FeatureMap(tokens, merged.primary.hw)])


class MeanOfEachPack(NextToken):
    def forward(self, model, batch, totals):
        return super().forward(model, batch, self.counts(batch))


class GradientLeak(LinearProjector):
    """Right outputs and loss, with a gradient that depends on the number of tiles in the pack."""

    def forward(self, features, embedding_weight=None):
        out = super().forward(features)
        return out + (out - out.detach()) * features.primary.tokens.shape[0]


def test_a_backbone_that_ignores_boundaries() -> None:
    sizes = {"hidden_size": tiny.WIDTH, "num_layers": 2, "num_heads": 4, "intermediate_size": 48}
    said = failure("packed_equals_separate", "backbone", lambda: WithoutBoundaries(**sizes))
    assert "output of lm of samples 0, 1, 2, 3, 4 in one pack differs by" in said
    assert "(allowed 1e-05)" in said
    assert "loss differs by" in said


def test_a_projector_that_mixes_the_tiles_of_a_pack() -> None:
    said = failure("packed_equals_separate", "projector", MeanOfThePack)
    assert "output of lm of samples 0, 1, 2, 3, 4 in one pack differs by" in said


def test_mixtures_that_show_in_some_packs_only() -> None:
    sizes = {"hidden_size": tiny.WIDTH, "num_layers": 2, "num_heads": 4, "intermediate_size": 48}
    said = failure("packed_equals_separate", "backbone", lambda: OfOneLength(**sizes))
    assert said.startswith("output of lm of samples 1, 2 in one pack differs by")
    assert "output of lm of samples" in failure("packed_equals_separate", "merger", SwappedTiles)
    assert failure("packed_equals_separate", "projector", InTraining).startswith("loss differs by")


def test_only_gradients_differ() -> None:
    said = failure("packed_equals_separate", "projector", GradientLeak)
    assert "gradient of projector.linear.weight differs by" in said
    assert "output" not in said


def test_an_objective_with_a_mean_for_each_pack() -> None:
    assert failure("packed_equals_separate", "objective", MeanOfEachPack).startswith("loss differs by")


def test_packs_without_targets_are_told() -> None:
    def none(seed, *, tile, tokens_per_tile):
        packs = text_packs(seed, tile=tile, tokens_per_tile=tokens_per_tile)
        return [replace(pack, labels=torch.full_like(pack.labels, -100)) for pack in packs]

    assert "they have no targets" in failure("packed_equals_separate", "objective", NextToken, packs=none)

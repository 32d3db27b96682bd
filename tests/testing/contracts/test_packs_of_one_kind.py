from __future__ import annotations

from mmcomponents.batch import LossOutput
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.objectives import NextToken, Objective
from mmcomponents.projectors import LinearProjector
from mmcomponents.testing import check_component, text_packs
from mmcomponents.testing.sample_packs import blank_pack
from testing.contracts.broken import failure


class TextOnly(TokenEmbedder):
    """Leaves the blank tile out of the graph of a pack without images."""

    def forward(self, batch, visual_tokens, runtime=None):
        return super().forward(batch, visual_tokens if batch.images is not None else None, runtime)


class BlankCounts(TokenEmbedder):
    """Adds the visual tokens of the blank tile to the text."""

    def forward(self, batch, visual_tokens, runtime=None):
        out = super().forward(batch, visual_tokens, runtime)
        return out if batch.images is not None or visual_tokens is None else out + visual_tokens.mean()


class Square(LinearProjector):
    """Infinite gradient at zero, as of a norm."""

    def forward(self, features, embedding_weight=None):
        return super().forward(features) + (self.linear.weight * 0).sum().sqrt()


class OwnMean(NextToken):
    def forward(self, model, batch, totals):
        out = super().forward(model, batch, {**totals, "weight": 1.0})
        return LossOutput(out.total / (batch.labels >= 0).sum(), out.parts)


def with_blank(seed, *, tile, tokens_per_tile):
    return [*text_packs(seed, tile=tile, tokens_per_tile=tokens_per_tile), blank_pack(seed)]


def test_a_text_pack_without_gradients_of_the_encoder() -> None:
    said = failure("packs_of_one_kind", "embedder", TextOnly)
    assert "text alone: no gradient for projector." in said


def test_a_blank_tile_that_changes_the_text() -> None:
    assert "output of lm of text with a blank tile differs by" in failure("packs_of_one_kind", "embedder", BlankCounts)


def test_an_infinite_gradient() -> None:
    said = failure("packs_of_one_kind", "projector", Square)
    assert "images alone: the gradient of projector.linear.weight is not finite" in said


def test_an_objective_that_divides_by_zero() -> None:
    said = failure("packs_of_one_kind", "objective", OwnMean, packs=with_blank)
    assert "pack 5 (text): the loss is nan" in said


class VisualOnly(Objective):
    """Learns from the visual tokens alone."""

    def counts(self, batch):
        return {"weight": 1.0}

    def forward(self, model, batch, totals):
        state = model(batch)
        used = state.visual_tokens if batch.images is not None else state.visual_tokens * 0
        return LossOutput(used.square().mean() / totals["weight"])


class OnlyWithImages(VisualOnly):
    """Leaves the encoder out of the graph of a pack without images."""

    def forward(self, model, batch, totals):
        if batch.images is not None:
            return super().forward(model, batch, totals)
        return LossOutput(model(batch).embeds.sum() * 0)


def test_an_objective_may_use_a_part_of_the_model() -> None:
    assert check_component("objective", VisualOnly, only=["packs_of_one_kind"])
    said = failure("packs_of_one_kind", "objective", OnlyWithImages)
    assert "pack 0 (images): no gradient for embedder.embedding.weight (1 parameters)" in said

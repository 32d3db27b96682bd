"""Head that conditions a denoiser of pictures on the hidden states of queries.

Reference code: rongyaofang/GoT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from mmcomponents.batch import ModelState, PackedBatch, TokenType
from mmcomponents.component import Composition, WiringError
from mmcomponents.heads.base import Head
from mmcomponents.heads.denoisers.base import Denoiser
from mmcomponents.heads.noise_schedule import NoiseSchedule
from mmcomponents.limits import MAX_ROWS, check_sizes


class Semantic(NamedTuple):
    """What a denoiser is told in words.

    Attributes:
        context: `[P, n, context_width]` for cross-attention.
        pooled: `[P, pooled_width]`.
    """

    context: Tensor
    pooled: Tensor


class Condition(Head):
    """Denoiser of pictures with semantic, spatial and reference conditions (GoT, arXiv 2503.10639, section 4.3).

    The hidden states of the last `num_queries` positions of type `QUERY` of a segment become, by a linear map, what the
    denoiser reads by cross-attention, and by another one and a mean its pooled vector. The schedule belongs to the
    head, since the weights are of use with this schedule only.

    Args:
        in_features: Width of the hidden states.
        vocab_size: Vocabulary size, which is not used.
        denoiser: Factory of the denoiser.
        schedule: Factory of the noise schedule.
        num_queries: Number of queries of a picture.

    Raises:
        WiringError: The factory makes no denoiser.
    """

    in_features: int
    weight_methods: ClassVar[tuple[str, ...]] = ("semantic", "without_words", "predicted")

    def __init__(
        self,
        in_features: int,
        vocab_size: int | None,
        denoiser: Callable[[], Denoiser],
        schedule: Callable[[], NoiseSchedule],
        num_queries: int = 64,
    ) -> None:
        super().__init__()
        check_sizes(MAX_ROWS, num_queries=num_queries)
        made = denoiser()
        if not isinstance(made, Denoiser):
            raise WiringError(f"Condition needs a Denoiser, and {type(made).__name__} is none")
        self.in_features, self.num_queries = in_features, num_queries
        self.denoiser, self.schedule = made, schedule()
        self.shard_units = made.shard_units
        self.context = nn.Linear(in_features, made.context_width)
        self.pooled = nn.Linear(in_features, made.pooled_width)
        self.init_weights()

    def check(self, model: Composition) -> None:
        """Checks that the embedder has as many queries, and the autoencoder latents of the denoiser's size.

        Raises:
            WiringError: They have not.
        """
        name = type(self).__name__
        known = getattr(model.embedder, "num_queries", None)
        if known is None:
            found = "the embedder slot is empty" if model.embedder is None else f"{type(model.embedder).__name__} has 0"
            raise WiringError(f"{name} reads {self.num_queries} queries and {found}: use QueryEmbedder")
        if known != self.num_queries:
            raise WiringError(
                f"{type(model.embedder).__name__} has {known} queries and {name} reads {self.num_queries}"
            )
        inner = type(self.denoiser).__name__
        for head in model.heads.values():
            for what, said in (("latent_channels", "channels"), ("latent_size", "places along a side")):
                theirs, own = getattr(head, what, None), getattr(self.denoiser, what)
                if theirs is not None and own is not None and theirs != own:
                    raise WiringError(
                        f"latents of {type(head).__name__} have {theirs} {said}, and those of {inner} {own}"
                    )

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        """Returns what is predicted of latents that are zero, at noise level 0, `[P, c, h, w]`.

        Training and sampling call `predicted`, with the latents.
        """
        assert state.hidden is not None
        queries = self.queries(state.hidden, batch)
        shown = queries if len(queries) else self.blank_queries(state.hidden)
        count, side = len(shown), self.denoiser.latent_size or 8
        zeros = torch.zeros(count, self.denoiser.latent_channels, side, side, device=shown.device, dtype=shown.dtype)
        level = torch.zeros(count, dtype=torch.int64, device=shown.device)
        return self.predicted(zeros, level, zeros, zeros, self.semantic(shown))[: len(queries)]

    def queries(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Returns the hidden states of the last queries of each segment that has some, `[P, num_queries, d]`.

        Args:
            hidden: `[T, d]`.
            batch: The pack.

        Raises:
            WiringError: The queries of a segment are not those of whole pictures.
        """
        layout, count = batch.layout, self.num_queries
        places = (layout.token_type == TokenType.QUERY).nonzero()[:, 0]
        found = torch.bincount(layout.segment_of_token()[places], minlength=layout.num_segments)
        wrong = [number for number in found.tolist() if number % count]
        if wrong:
            raise WiringError(f"a segment has {wrong[0]} positions of type QUERY, and a picture has {count} queries")
        ends = found.cumsum(0)[found > 0]
        last = ends[:, None] - count + torch.arange(count, device=ends.device)
        return hidden[places[last]]

    def blank_queries(self, hidden: Tensor) -> Tensor:
        """Returns zeros in the place of the states of queries, for a pack without pictures.

        They depend on the hidden states, so that each rank of a sharded model computes the same gradients.

        Args:
            hidden: `[T, d]`.

        Returns:
            `[1, num_queries, d]`.
        """
        return (hidden.sum(0) * 0.0).expand(1, self.num_queries, -1)

    def semantic(self, queries: Tensor) -> Semantic:
        """Maps hidden states of queries `[P, n, d]`."""
        return Semantic(self.context(queries), self.pooled(queries).mean(1))

    def without_words(self, semantic: Semantic) -> Semantic:
        """Returns the condition without words: the map of zeros; the pooled vector stays, as in the released code."""
        zeros = semantic.context.new_zeros(*semantic.context.shape[:2], self.in_features)
        return Semantic(self.context(zeros), semantic.pooled)

    def predicted(self, noisy: Tensor, level: Tensor, reference: Tensor, spatial: Tensor, semantic: Semantic) -> Tensor:
        """Returns what the schedule predicts of noisy latents.

        Args:
            noisy: `[P, c, h, w]`.
            level: `[P]` int64 noise levels.
            reference: `[P, c, h, w]` latents of reference pictures; zeros: none.
            spatial: `[P, c, h, w]` latents of layouts; zeros: none.
            semantic: Condition in words.

        Returns:
            `[P, c, h, w]`.
        """
        found: Tensor = self.denoiser(torch.cat((noisy, reference, spatial), dim=1), level, *semantic)
        return found

    def flops(self, batch: PackedBatch) -> float:
        """Counts the maps of the queries and one evaluation of the denoiser for each picture."""
        queries = int((batch.layout.token_type == TokenType.QUERY).sum())
        maps = 2.0 * queries * (self.context.weight.numel() + self.pooled.weight.numel())
        side = self.denoiser.latent_size or 0
        return maps + queries / self.num_queries * self.denoiser.flops_of(side, side)

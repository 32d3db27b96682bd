"""Next-token prediction of texts and of the ids of pictures."""

from __future__ import annotations

from types import MappingProxyType
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from mmcomponents.batch import LossOutput, ModelState, PackedBatch, TokenType
from mmcomponents.component import Composition, WiringError
from mmcomponents.limits import check_numbers
from mmcomponents.nn.folds import fold_ids
from mmcomponents.objectives.base import LanguageHead, Model, check_head
from mmcomponents.objectives.next_token import NextToken
from mmcomponents.objectives.weighting import Weighting, token_weights


class FoldHead(Protocol):
    """Interface of heads for losses over the ids of pictures; see `mmcomponents.heads.VQUnfold`."""

    rows: int
    columns: int

    def weighted_fold_nll(self, hidden: Tensor, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the weighted sum of the negative log-likelihoods of the ids of folds.

        Args:
            hidden: `[F, d]` hidden states of the positions before the folds.
            ids: `[F, rows * columns]` int64.
            weights: fp32 `[F]`, of each id of a fold.

        Returns:
            The sum, an fp32 scalar, and the sum over the ids of each fold, fp32 `[F]` without gradient.
        """
        ...


class ImageTokens(NextToken):
    """Cross-entropy of the text's tokens plus `image_weight` times that of the ids of pictures (SynerGen-VL, 3.2).

    The hidden state before each position of type `IMAGE_GEN` predicts the ids of the fold there. Both terms are means,
    of the targets of the texts and of all ids, over the whole step. The fold is that of the head, which checks the
    merger's.
    Source: arXiv 2412.09604, whose weight is 2.

    Args:
        weighting: Weighting of the text's tokens, see `NextToken`.
        head: Name of the language-model head.
        sources: See `NextToken`.
        image_head: Name of the head that predicts ids.
        image_weight: Weight of the ids.
    """

    def __init__(
        self,
        weighting: Weighting = "token",
        head: str = "lm",
        sources: int = 0,
        image_head: str = "vq_unfold",
        image_weight: float = 2.0,
    ) -> None:
        super().__init__(weighting, head, sources)
        check_numbers(image_weight=image_weight)
        self.image_head, self.image_weight = image_head, image_weight
        self.needs_heads = (head, image_head)
        self.validated = MappingProxyType({"text": "weight", "image": "folds"})
        self.loss_weights = MappingProxyType({"text": 1.0, "image": image_weight})

    def check(self, model: Composition) -> None:
        """Checks that the heads compute likelihoods, and that the encoder has ids.

        Raises:
            WiringError: They do not, or it has not.
        """
        super().check(model)
        check_head(self, model, self.image_head, "weighted_fold_nll", "VQUnfold")
        if getattr(model.vision, "codebook_size", None) is None:
            found = "the vision slot is empty" if model.vision is None else f"{type(model.vision).__name__} has none"
            raise WiringError(f"{type(self).__name__} needs ids of an image tokenizer and {found}: use VQEmbedding")

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Computes the counts of the texts, and the number of predicted folds."""
        return super().counts(batch) | {"folds": float(len(_made(batch)))}

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Computes the share of the pack in the loss of the step."""
        weights = token_weights(batch.labels, batch.layout.cu_seqlens, self.weighting)
        weights = weights / max(totals["weight"], 1e-12)
        at = _made(batch)

        def read(heads: nn.ModuleDict, state: ModelState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            assert state.hidden is not None
            text = cast(LanguageHead, heads[self.head]).weighted_nll(state.hidden, batch.labels, weights)
            head = cast(FoldHead, heads[self.image_head])
            share = 1.0 / max(totals["folds"] * head.rows * head.columns, 1.0)
            hidden, ids, folds = self._folds(state, head, batch, at)
            return *text, *head.weighted_fold_nll(hidden, ids, folds * share)

        text, nll, image, _ = model(batch, read=read)
        total = text + self.image_weight * image
        parts = {"loss": total.detach(), "text": text.detach(), "image": image.detach()}
        parts["nll"] = nll.sum() / max(totals["targets"], 1.0)
        for source, value in enumerate(self._by_source(batch, nll)):
            parts[f"nll/{source}"] = value / max(totals[f"targets/{source}"], 1.0)
        return LossOutput(total, parts)

    def _folds(
        self, state: ModelState, head: FoldHead, batch: PackedBatch, at: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns hidden states, ids and weights of the folds of a pack.

        A pack without pictures has one fold of the weight 0, so that each rank runs the head.
        """
        assert state.hidden is not None
        weights = torch.ones(max(len(at), 1), device=state.hidden.device)
        if not len(at):
            zeros = torch.zeros(1, head.rows * head.columns, dtype=torch.long, device=state.hidden.device)
            return state.hidden[:1], zeros, weights * 0.0
        ids = None if state.visual is None else state.visual.vq_ids
        if ids is None:
            raise WiringError(f"{type(self).__name__} finds no ids of the pictures: the encoder keeps none")
        return state.hidden[at - 1], fold_ids(ids, head.rows, head.columns)[batch.visual_index[at]], weights


def _made(batch: PackedBatch) -> Tensor:
    """Returns the positions of pictures that are made, without those that begin a segment: nothing predicts them."""
    is_made = (batch.layout.token_type == TokenType.IMAGE_GEN) & (batch.visual_index >= 0)
    is_made[batch.layout.cu_seqlens[:-1].long()] = False
    return is_made.nonzero()[:, 0]

"""Language-model head."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmcomponents.batch import IGNORE, ModelState, PackedBatch
from mmcomponents.component import WiringError
from mmcomponents.heads.base import Head
from mmcomponents.limits import MAX_ROWS, check_sizes
from mmcomponents.nn.linear import linear
from mmcomponents.nn.linear_nll import linear_nll, weighted_linear_nll


class LMHead(Head):
    """Linear map from hidden states to the vocabulary, without bias.

    Args:
        in_features: Width of the hidden states.
        vocab_size: Vocabulary size.
        tied: Whether the weight is the embedding weight, which the model assigns.
    """

    in_features: int
    weight_methods: ClassVar[tuple[str, ...]] = ("logits", "nll", "weighted_nll")

    def __init__(self, in_features: int, vocab_size: int, tied: bool = False) -> None:
        super().__init__()
        check_sizes(in_features=in_features)
        check_sizes(MAX_ROWS, vocab_size=vocab_size)
        self.in_features, self.vocab_size = in_features, vocab_size
        self.is_tied = tied
        self.weight = nn.Parameter(torch.empty(vocab_size, in_features))
        self.init_weights()

    def tie(self, embedding_weight: Tensor | None) -> None:
        """Uses the embedding weight, if the head is tied.

        Args:
            embedding_weight: `[vocab, d]` parameter of the embedder.

        Raises:
            WiringError: There is no embedding weight, or it has another shape.
        """
        if not self.is_tied:
            return
        if not isinstance(embedding_weight, nn.Parameter):
            raise WiringError("LMHead is tied to the embedding weight and the embedder has none")
        if embedding_weight.shape != self.weight.shape:
            raise WiringError(
                f"LMHead is tied and has a weight of {list(self.weight.shape)}, the embedding weight is"
                f" {list(embedding_weight.shape)}"
            )
        self.weight = embedding_weight

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        """Computes the logits of all positions, `[T, vocab]`. Training uses `nll`, which never holds all of them."""
        assert state.hidden is not None
        return self.logits(state.hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Computes the logits of some positions, `[n, d]` to `[n, vocab]`."""
        return linear(hidden, self.weight)

    def nll(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Computes the negative log-likelihood of each position.

        Args:
            hidden: `[n, d]` hidden states.
            labels: `[n]` int64 targets, `IGNORE` where there is none.

        Returns:
            fp32 `[n]`, zero where there is no target.
        """
        return linear_nll(hidden, self.weight, labels)

    def weighted_nll(self, hidden: Tensor, labels: Tensor, row_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the weighted sum of the negative log-likelihoods, and their values without gradient.

        Args:
            hidden: `[n, d]` hidden states.
            labels: `[n]` int64 targets, `IGNORE` where there is none.
            row_weights: fp32 `[n]` weight of each position.

        Returns:
            The weighted sum, an fp32 scalar, and the negative log-likelihoods, fp32 `[n]` without gradient.
        """
        return weighted_linear_nll(hidden, self.weight, labels, row_weights)

    def flops(self, batch: PackedBatch) -> float:
        """Counts the matrix over the positions with a target, the only ones that a loss needs."""
        return 2.0 * float((batch.labels != IGNORE).sum()) * self.weight.numel()

"""The language-model head."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmcomponents.batch import IGNORE, ModelState, PackedBatch
from mmcomponents.component import WiringError
from mmcomponents.heads.base import Head
from mmcomponents.nn.linear import linear
from mmcomponents.nn.linear_nll import linear_nll, weighted_linear_nll


class LMHead(Head):
    """Linear map from hidden states to the vocabulary, without bias.

    Args:
        in_features: Width of the hidden states.
        vocab_size: Words.
        tied: Whether the weight is to be the embedder's word table; the composite puts it there.
    """

    weight_methods: ClassVar[tuple[str, ...]] = ("logits", "nll", "weighted_nll")

    def __init__(self, in_features: int, vocab_size: int, tied: bool = False) -> None:
        super().__init__()
        self.in_features = in_features
        self.is_tied = tied
        self.weight = nn.Parameter(torch.empty(vocab_size, in_features))
        self.init_weights()

    def tie(self, word_table: Tensor | None) -> None:
        """Takes the word table, if the head is tied.

        Raises:
            WiringError: There is no table, or it has another shape.
        """
        if not self.is_tied:
            return
        if not isinstance(word_table, nn.Parameter):
            raise WiringError("LMHead is tied to a word table and the embedder has none")
        if word_table.shape != self.weight.shape:
            raise WiringError(
                f"LMHead is tied and has a weight of {list(self.weight.shape)}, the word table {list(word_table.shape)}"
            )
        self.weight = word_table

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        """Logits of every position, `[T, vocab]`. Training goes through `nll`, which never holds them all."""
        assert state.hidden is not None
        return self.logits(state.hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of some positions, `[n, d]` to `[n, vocab]`."""
        return linear(hidden, self.weight)

    def nll(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood of each row: `[n, d]` and `[n]` to fp32 `[n]`, zero where there is no target."""
        return linear_nll(hidden, self.weight, labels)

    def weighted_nll(self, hidden: Tensor, labels: Tensor, row_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum over the rows (fp32 scalar), and each row's value without gradient (fp32 `[n]`)."""
        return weighted_linear_nll(hidden, self.weight, labels, row_weights)

    def flops(self, batch: PackedBatch) -> float:
        """The matrix over the rows that have a target, which are all that a loss sends through it."""
        return 2.0 * float((batch.labels != IGNORE).sum()) * self.weight.numel()

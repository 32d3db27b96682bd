"""A language-model head that also judges with two words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmcomponents.batch import PackedBatch
from mmcomponents.component import WiringError
from mmcomponents.heads.lm_head import LMHead


class Verbalizer(LMHead):
    """A language-model head with two words for verdicts (VisualPRM, arXiv 2503.10291, section 3).

    Its weight is that of an `LMHead`, so a critic starts from a language model, and can still write. A verdict reads
    two rows of it: P(positive) = sigmoid(l+ - l-), whatever the other words are.

    Args:
        in_features: Width of the hidden states.
        vocab_size: Words.
        token_ids: Ids of the positive and of the negative word.
        tied: Whether the weight is to be the embedder's word table; the composite puts it there.

    Raises:
        WiringError: The two ids are one, or are no words of the vocabulary.
    """

    weight_methods = (*LMHead.weight_methods, "verdict_logits")

    def __init__(self, in_features: int, vocab_size: int, token_ids: tuple[int, int], tied: bool = False) -> None:
        self._check(token_ids, vocab_size)
        super().__init__(in_features, vocab_size, tied)
        self.token_ids = (int(token_ids[0]), int(token_ids[1]))

    @staticmethod
    def _check(token_ids: Sequence[int], vocab_size: int) -> None:
        if len(token_ids) != 2 or token_ids[0] == token_ids[1]:
            raise WiringError(f"Verbalizer takes two different token_ids, positive and negative, got {list(token_ids)}")
        outside = [number for number in token_ids if not 0 <= number < vocab_size]
        if outside:
            raise WiringError(f"Verbalizer's token_ids {outside} are outside the vocabulary of {vocab_size} words")

    def verdict_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the positive and the negative word, `[n, d]` to fp32 `[n, 2]`.

        The product is made in fp32: it is small, and the difference of two large bf16 logits has few digits.
        """
        rows = self.weight[list(self.token_ids)]
        with torch.autocast(hidden.device.type, enabled=False):
            return hidden.float() @ rows.float().T

    def flops(self, batch: PackedBatch) -> float:
        """Two rows for each step of a pack of steps; else as a head over words."""
        if batch.steps is None:
            return super().flops(batch)
        return 2.0 * batch.steps.score_at.shape[0] * 2 * self.in_features

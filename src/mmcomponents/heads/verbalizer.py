"""Language-model head that also computes verdicts with two tokens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmcomponents.batch import PackedBatch
from mmcomponents.component import WiringError
from mmcomponents.heads.lm_head import LMHead
from mmcomponents.nn.autocast import without_autocast


class Verbalizer(LMHead):
    """Language-model head with two tokens for verdicts (VisualPRM, arXiv 2503.10291, section 3).

    Its weight is that of an `LMHead`, so that a critic starts from a language model and can still generate text. A
    verdict uses two rows of it: P(positive) = sigmoid(l+ - l-), independent of all other tokens.

    Args:
        in_features: Width of the hidden states.
        vocab_size: Vocabulary size.
        token_ids: Ids of the positive and the negative token.
        tied: Whether the weight is the embedding weight, which the model assigns.

    Raises:
        WiringError: The two ids are equal or outside the vocabulary.
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
            raise WiringError(f"Verbalizer's token_ids {outside} are outside the vocabulary of {vocab_size} tokens")

    def verdict_logits(self, hidden: Tensor) -> Tensor:
        """Computes the logits of the positive and the negative token, `[n, d]` to fp32 `[n, 2]`.

        The product runs in fp32: it is small, and the difference of two large bf16 logits is inaccurate.
        """
        weight = self.weight[list(self.token_ids)]
        with without_autocast(hidden.device.type):
            return hidden.float() @ weight.float().T

    def flops(self, batch: PackedBatch) -> float:
        """Counts two rows of the weight per step if the pack has steps, else as `LMHead` does."""
        if batch.steps is None:
            return super().flops(batch)
        return 2.0 * batch.steps.score_at.shape[0] * 2 * self.in_features

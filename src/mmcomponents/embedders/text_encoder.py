"""Encoders of text that is given to a model as features, instead of as embeddings of its own vocabulary."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmcomponents.component import Component


class TextEncoder(Component):
    """Features of the tokens at positions of the type `TokenType.EXTERNAL`.

    Attributes:
        width: Width of the features, c.
    """

    width: int

    @abstractmethod
    def forward(self, ids: Tensor, lengths: list[int]) -> Tensor:
        """Encodes texts, each on its own.

        Args:
            ids: `[E]` token ids of the texts, one text after the other.
            lengths: Number of tokens of each text, none of them 0.

        Returns:
            `[E, c]`.
        """

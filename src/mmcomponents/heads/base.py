"""Base class of heads."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from mmcomponents.batch import ModelState, PackedBatch
from mmcomponents.component import Component


class Head(Component):
    """Computes an output from the state of the model. Built from (width, vocabulary size).

    The width is that of the backbone. In a model without one, it is that of the visual features, a tuple for several
    maps, and the vocabulary size may be None.
    """

    needs: ClassVar[tuple[str, ...]] = ("hidden",)
    """Fields of `ModelState` that the head reads: "hidden", "embeds", "visual" or "visual_tokens".

    For a pack without images, the visual fields are those of a blank tile, None while decoding: what a head makes of
    them enters a loss with the factor 0 only.
    """

    in_features: int | tuple[int, ...]
    """Input width; a tuple for several maps."""

    is_tied: bool = False
    """Whether the head's weight is the embedding weight."""

    def tie(self, embedding_weight: Tensor | None) -> None:
        """Uses the embedding weight as the weight of the head if it is tied; called by the model.

        Args:
            embedding_weight: `[vocab, d]` parameter of the embedder; None if it has none.
        """

    @abstractmethod
    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        """Computes the output of the head.

        Args:
            state: What the model has computed, see `needs`.
            batch: The pack, T tokens.

        Returns:
            Output of any shape, such as logits `[T, vocab]`.
        """

    def planned_loss(self, state: ModelState, batch: PackedBatch) -> Tensor | None:
        """Returns a loss over a pack of `plan`, a scalar, for a head whose training does not compute `forward`.

        Default: None, for the sum of what `forward` returns.
        """
        return None

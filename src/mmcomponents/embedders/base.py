"""Base class of embedders."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmcomponents.batch import PackedBatch
from mmcomponents.component import Component
from mmcomponents.nn.runtime import Runtime


class Embedder(Component):
    """Owns the embedding weight and computes the input of the backbone. Built from (vocabulary size, width).

    Attributes:
        hidden_size: Width of the sequence.
    """

    hidden_size: int

    @abstractmethod
    def embedding_weight(self) -> Tensor | None:
        """Returns the `[vocab, d]` parameter, or None if the embedder has none."""

    @abstractmethod
    def forward(self, batch: PackedBatch, visual_tokens: Tensor | None, runtime: Runtime | None = None) -> Tensor:
        """Embeds a pack.

        Visual tokens that no position points to remain in the graph, with a gradient of zero: under FSDP all ranks run
        the same graph, including ranks whose pack has no image and whose visual tokens are those of a blank tile.

        Args:
            batch: The pack, T tokens.
            visual_tokens: `[R, d]` of all images, addressed by `batch.visual_index`; None without images.
            runtime: Additional inputs of the call.

        Returns:
            `[T, d]`.
        """

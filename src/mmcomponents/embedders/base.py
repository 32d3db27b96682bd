"""Base class of embedders."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

from torch import Tensor

from mmcomponents.batch import Exact, Layout, PackedBatch
from mmcomponents.component import Component
from mmcomponents.nn.runtime import Runtime


class Rotations(Protocol):
    """What an embedder uses of a position part."""

    def ticks(self, layout: Layout) -> Tensor:
        """Computes positions in integer ticks of 1/256, int64 `[T]` or `[T, axes]`."""
        ...

    def rotary(self, layout: Layout) -> Exact:
        """Computes cosine and sine, fp32 `[T, head_dim]` each, as a backbone takes them."""
        ...


class Embedder(Component):
    """Owns the embedding weight and computes the input of the backbone. Built from (vocabulary size, width).

    Attributes:
        hidden_size: Width of the sequence.
        visual_features: Width of the visual tokens that it takes, for one that contracts them. None: `hidden_size`.
        context_width: Width of the features of external text, see `external`. None: it has none.
    """

    hidden_size: int
    visual_features: int | None = None
    context_width: int | None = None

    def bind(self, position: Rotations | None) -> None:
        """Gets the position part of the model, when the model is composed. The default does nothing.

        An embedder with decoder layers of its own computes their rotary tables with it, so that both stacks always have
        the same positions. It must not become a submodule: keep it in a tuple, as a module in an attribute would be
        trained, drawn and stored twice.

        Args:
            position: The model's position part, None if its slot is empty.

        Raises:
            WiringError: The embedder needs one and there is none.
        """

    def external(self, batch: PackedBatch) -> Tensor | None:
        """Returns the features of external text, `[E, context_width]`, of the positions of type EXTERNAL.

        The model calls it before it encodes images: the mean of the features of a segment is the `context` of its
        images, and `forward` gets all of them in `runtime.inserted`. A class that uses weights for it names the method
        in `weight_methods`. Default: None, there are no such features.

        Args:
            batch: The pack.
        """
        return None

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
            visual_tokens: `[R, visual_features]` of all images, addressed by `batch.visual_index`; None without images.
            runtime: Additional inputs of the call. Layers inside the embedder get a view of its cache, see
                `KVCache.view`.

        Returns:
            `[T, d]`.
        """

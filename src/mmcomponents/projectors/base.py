"""Base class of projectors."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmcomponents.batch import PackedBatch, VisualFeatures
from mmcomponents.component import Component, WiringError


class Projector(Component):
    """Projects visual tokens to the width of the backbone. Built from (input width, output width)."""

    in_features: int | tuple[int, ...]
    """Input width; a tuple for several maps."""

    out_features: int
    """Output width."""

    needs_embedding_weight: bool = False
    """Whether `forward` needs the embedding weight. An instance may set it depending on its arguments."""

    @abstractmethod
    def forward(self, features: VisualFeatures, embedding_weight: Tensor | None = None) -> Tensor:
        """Projects `[N, n, in_features]` to `[N, n, out_features]`.

        Args:
            features: Visual features after fuser and merger.
            embedding_weight: `[vocab, d]` of the embedder if `needs_embedding_weight` is set, else None.
        """


def one_map(projector: Projector, in_features: int | tuple[int, ...]) -> int:
    """Returns the width of the only map that a projector is built for.

    Raises:
        WiringError: There are several maps.
    """
    if not isinstance(in_features, tuple):
        return in_features
    raise WiringError(
        f"{type(projector).__name__} takes one feature map and is given {len(in_features)}: {in_features}"
    )


def num_addressed(batch: PackedBatch) -> int:
    """Returns the number of visual tokens that a pack points to."""
    return int(batch.visual_index.max()) + 1 if batch.num_tokens else 0

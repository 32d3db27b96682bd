"""Pixel unshuffle, which merges a block of neighbouring patches into one wide token.

Reference code: OpenGVLab/InternVL.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.limits import check_choices, check_sizes
from mmcomponents.mergers.base import Merger

Order = Literal["v1", "v2"]


class PixelUnshuffle(Merger):
    """Stacks the channels of each `rows x columns` block of patches (InternVL 1.5, arXiv 2404.16821, section 3.1).

    Output token (r, s) holds one block of channels for each (dy, dx) of its patches, dy outermost.

    Args:
        in_features: Width of the map, C.
        rows: Height of a block in patches.
        columns: Width of a block in patches.
        order: "v2" (InternVL 2.5 and later) keeps the grid; "v1" (older checkpoints) transposes it.
    """

    def __init__(
        self,
        in_features: int | tuple[int, ...],
        rows: int = 2,
        columns: int = 2,
        order: Order = "v2",
    ) -> None:
        super().__init__()
        if not isinstance(in_features, int):
            raise WiringError(
                f"{type(self).__name__} takes one feature map and is given {len(in_features)}: {in_features}"
            )
        check_choices(order=(order, Order))
        check_sizes(rows=rows, columns=columns)
        self.in_features = in_features
        self.rows = rows
        self.columns = columns
        self.order = order
        self.out_features = in_features * rows * columns

    def num_tokens(self, hw: tuple[int, int]) -> int:
        """Returns the number of blocks in a map of this height and width.

        Raises:
            ValueError: The map size is not a multiple of the block size.
        """
        height, width = self._out_hw(hw)
        return height * width

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Merges the primary map, `[N, h*w, C]` to `[N, h*w / (rows*columns), rows*columns*C]`.

        Raises:
            WiringError: The map has another width than C.
            ValueError: Its size is not a multiple of the block size.
        """
        source = features.primary
        if source.tokens.shape[-1] != self.in_features:
            width = source.tokens.shape[-1]
            raise WiringError(f"{type(self).__name__} takes feature maps of width {self.in_features}, got {width}")
        height, width = self._out_hw(source.hw)
        x = source.tokens.unflatten(1, (height, self.rows, width, self.columns))
        if self.order == "v2":
            x, hw = x.permute(0, 1, 3, 2, 4, 5), (height, width)
        else:
            x, hw = x.permute(0, 3, 1, 2, 4, 5), (width, height)
        tokens = x.flatten(3).flatten(1, 2)
        return replace(features, maps=[FeatureMap(tokens, hw, "pixel_unshuffle")])

    def _out_hw(self, hw: tuple[int, int]) -> tuple[int, int]:
        if hw[0] % self.rows or hw[1] % self.columns:
            raise ValueError(
                f"{type(self).__name__} has blocks of {self.rows} x {self.columns}, which a map of {hw[0]} x {hw[1]}"
                " is not a multiple of"
            )
        return hw[0] // self.rows, hw[1] // self.columns

"""Encoders whose blocks can run one at a time."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmcomponents.vision.base import VisionEncoder


class BlockEncoder(VisionEncoder):
    """Encoder that is a stem and a sequence of blocks, so that several encoders can exchange features between blocks.

    `forward` is the same as the stem, all blocks in order, and `finish`.

    Attributes:
        num_blocks: Number of blocks.
        num_prefix: Number of tokens before the patches, such as a class token.
        has_blocks: Whether it can run block by block; False for an instance that only has `forward`.
    """

    num_blocks: int
    num_prefix: int
    has_blocks: bool = True

    @abstractmethod
    def embed(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Computes the input of the first block.

        Args:
            pixels: `[N, 3, H, W]`.

        Returns:
            `[N, num_prefix + rows*columns, C]`, and rows and columns.
        """

    @abstractmethod
    def run_block(self, index: int, x: Tensor, hw: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Computes a block.

        Args:
            index: Number of the block, from 0.
            x: `[N, num_prefix + rows*columns, C]`, output of the block before, or of `embed`.
            hw: Rows and columns of `x`.

        Returns:
            `[N, num_prefix + rows'*columns', C']`, and its rows and columns.
        """

    def finish(self, x: Tensor) -> Tensor:
        """Computes what follows the last block, such as a norm, `[N, n, C]` to `[N, n, C]`."""
        return x

    def block_width(self, count: int) -> int:
        """Returns the width after a number of blocks; 0 is the output of `embed`."""
        width = self.hidden_size
        return width if isinstance(width, int) else width[-1]

    def block_grid(self, count: int, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        """Returns rows and columns after a number of blocks, for tiles of this height and width."""
        return self.grid(pixel_hw)

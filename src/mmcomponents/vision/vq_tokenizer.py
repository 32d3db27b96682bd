"""Contract of image tokenizers: pixels to ids of a codebook, and back."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmcomponents.vision.base import VisionEncoder, patch_grid


class VQTokenizer(VisionEncoder):
    """Base class of vector-quantised image tokenizers, which make an id of each square patch of a tile.

    As an encoder of its own, `forward` returns three maps that `VQReconstruction` trains: the continuous features, the
    codes nearest to them, and the pixels decoded from these codes, a patch at each place. A tokenizer that is not
    trained here has its codes alone. `VQEmbedding` uses a trained one.

    Attributes:
        codebook_size: Number of ids.
        patch_size: Side in pixels of the patch of one id.
    """

    codebook_size: int
    patch_size: int

    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of ids.

        Raises:
            ValueError: The tile size is not a multiple of the patch size.
        """
        return patch_grid(pixel_hw, self.patch_size)

    @abstractmethod
    def encode_ids(self, pixels: Tensor) -> Tensor:
        """Returns the ids `[N, h, w]` int64 of tiles `[N, 3, H, W]`."""

    @abstractmethod
    def decode_ids(self, ids: Tensor) -> Tensor:
        """Returns the tiles `[N, 3, H, W]` of ids `[N, h, w]`, normalised as the tokenizer takes them."""

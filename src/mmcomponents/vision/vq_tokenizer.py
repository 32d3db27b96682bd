"""Contract of image tokenizers: pixels to ids of a codebook, and back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from mmcomponents.batch import ImageBatch, PackedBatch
from mmcomponents.nn.autocast import without_autocast
from mmcomponents.vision.base import VisionEncoder, patch_grid


class VQTokenizer(VisionEncoder):
    """Base class of vector-quantised image tokenizers, which make an id of each square patch of a tile.

    As an encoder of its own, `forward` returns three maps that `VQReconstruction` trains: the continuous features, the
    codes nearest to them, and the pixels decoded from these codes, a patch at each place. A tokenizer that is not
    trained here has its codes alone. `VQEmbedding` uses a trained one.

    Attributes:
        codebook_size: Number of ids.
        patch_size: Side in pixels of the patch of one id.
        normalization: Name of the normalisation of its pixels in `data.images`. None: that of the data it was trained
            with, which its user has to know.
    """

    codebook_size: int
    patch_size: int
    normalization: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self._counted: dict[tuple[str, int, int], int] = {}

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

    def init_weights(self, seed: int | None = None, scope: str | None = None, given: Collection[str] = ()) -> None:
        """See the base class. Counts the operations for a tile of `image_size` too, which a sharded part cannot."""
        super().init_weights(seed, scope, given)
        if not self._counted:
            hw = (self.image_size, self.image_size)
            self._counted = {(name, *hw): _flops_of_a_tile(self, hw, call) for name, call in _CALLS.items()}

    def flops(self, batch: PackedBatch) -> float:
        """Counts convolutions and matrix products of `forward`, over the pixels of a pack."""
        return self._over_tiles(batch, "forward")

    def ids_flops(self, batch: PackedBatch) -> float:
        """Counts convolutions and matrix products of `encode_ids`, over the pixels of a pack."""
        return self._over_tiles(batch, "ids")

    def _over_tiles(self, batch: PackedBatch, name: str) -> float:
        if batch.images is None or batch.images.pixels is None:
            return 0.0
        hw = batch.images.pixel_hw
        if (name, *hw) not in self._counted:
            if any(isinstance(parameter, DTensor) for parameter in self.parameters()):
                # By area, as convolutions grow; attention, which grows faster, is a small part of a tokenizer.
                side = self.image_size
                return batch.images.num_tiles * self._counted[name, side, side] * (hw[0] * hw[1] / side**2)
            self._counted[name, *hw] = _flops_of_a_tile(self, hw, _CALLS[name])
        return float(batch.images.num_tiles * self._counted[name, *hw])


def nearest_codes(features: Tensor, codes: Tensor) -> Tensor:
    """Returns the ids of the codes that are nearest to features.

    Distances are computed in fp32 at least, in each precision of the run: in bf16 a large codebook gives other ids.

    Args:
        features: `[n, C]`.
        codes: `[K, C]`.

    Returns:
        `[n]` int64.
    """
    least = torch.promote_types(features.dtype, torch.float32)
    with torch.no_grad(), without_autocast(features.device.type):
        features, codes = features.to(least), codes.to(least)
        return torch.addmm(codes.square().sum(1), features, codes.T, beta=-0.5).argmax(1)


_CALLS: dict[str, Callable[[VQTokenizer, ImageBatch], Any]] = {
    "forward": lambda tokenizer, images: tokenizer(images),
    "ids": lambda tokenizer, images: tokenizer.encode_ids(images.require_pixels()),
}


class _Call(nn.Module):
    """A call of a tokenizer as a module, whose weights `functional_call` replaces."""

    def __init__(self, tokenizer: VQTokenizer, call: Callable[[VQTokenizer, ImageBatch], Any]) -> None:
        super().__init__()
        self.tokenizer, self.call = tokenizer, call

    def forward(self, images: ImageBatch) -> Any:
        return self.call(self.tokenizer, images)


def _flops_of_a_tile(
    tokenizer: VQTokenizer, hw: tuple[int, int], call: Callable[[VQTokenizer, ImageBatch], Any]
) -> int:
    """Counts a call for one tile on the meta device, without the weights' values."""
    module = _Call(tokenizer, call)
    state = (*module.named_parameters(), *module.named_buffers())
    shapes = {name: torch.empty(value.shape, dtype=value.dtype, device="meta") for name, value in state}
    images = ImageBatch(torch.empty(1, 3, *hw, device="meta"), torch.zeros(1, dtype=torch.long))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(module, shapes, (images,))
    return int(counter.get_total_flops())

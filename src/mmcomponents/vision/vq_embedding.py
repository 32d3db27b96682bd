"""Embedding of the ids of an image tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from mmcomponents.batch import FeatureMap, ImageBatch, PackedBatch, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.limits import check_sizes
from mmcomponents.nn.autocast import without_autocast
from mmcomponents.vision.base import VisionEncoder
from mmcomponents.vision.vq_tokenizer import VQTokenizer


class VQEmbedding(VisionEncoder):
    """Learned vectors of a frozen image tokenizer's ids, plus one for each place (SynerGen-VL, arXiv 2412.09604, 3.1).

    Images are pixels, which the tokenizer turns into ids, or ids that were made before (`ImageBatch.vq_ids`). The
    tokenizer computes without autocast, in the data type of its weights.

    Args:
        hidden_size: Width of the vectors.
        tokenizer: Factory of the tokenizer. Its weights are loaded by `model.weights: {vision.tokenizer: FOLDER}`, and
            never trained here.

    Attributes:
        codebook_size: Number of ids.

    Raises:
        WiringError: The factory makes no tokenizer.
    """

    frozen: ClassVar[tuple[str, ...]] = ("tokenizer.*",)
    weight_methods: ClassVar[tuple[str, ...]] = ("cells", "decode_ids")
    hidden_size: int

    def __init__(self, hidden_size: int, tokenizer: Callable[[], VQTokenizer]) -> None:
        super().__init__()
        check_sizes(hidden_size=hidden_size)
        made = tokenizer()
        if not isinstance(made, VQTokenizer):
            raise WiringError(
                f"VQEmbedding needs a tokenizer with ids (VQTokenizer), and {type(made).__name__} is none"
            )
        self.hidden_size, self.image_size, self.codebook_size = hidden_size, made.image_size, made.codebook_size
        self.tokenizer = made.requires_grad_(False)
        rows, columns = self.grid((self.image_size, self.image_size))
        self.embedding = nn.Embedding(self.codebook_size, hidden_size)
        self.positions = nn.Parameter(torch.empty(rows, columns, hidden_size))
        self.init_weights()

    @property
    def normalization(self) -> str | None:
        """Normalisation of the tokenizer's pixels, see `VQTokenizer`."""
        return self.tokenizer.normalization

    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of ids.

        Raises:
            ValueError: The tile size is not a multiple of the patch size.
        """
        return self.tokenizer.grid(pixel_hw)

    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Embeds tiles `[N, 3, H, W]`, or ids `[N, h, w]`, as a map `[N, h*w, hidden_size]`; it keeps the ids.

        Raises:
            ValueError: An id is outside of the codebook, or a grid is not that of the places.
        """
        return self.cells(self.ids(images), images)

    def ids(self, images: ImageBatch) -> Tensor:
        """Returns the ids of images, `[N, h, w]`."""
        if images.vq_ids is not None:
            return images.vq_ids
        pixels = images.require_pixels()
        with torch.no_grad(), without_autocast(pixels.device.type):
            return self.tokenizer.encode_ids(pixels)

    def cells(
        self, ids: Tensor, images: ImageBatch | None = None, origin: tuple[int, int] | None = None
    ) -> VisualFeatures:
        """Embeds ids.

        Args:
            ids: `[N, h, w]` int64, of whole tiles or of a rectangle of each.
            images: Images whose context and valid sizes the features get.
            origin: Row and column of the rectangle's first id. None: whole tiles.

        Raises:
            ValueError: An id is outside of the codebook, or the places do not exist.
        """
        rows, columns = ids.shape[1:]
        known = self.positions.shape[:2]
        top, left = origin or (0, 0)
        if top + rows > known[0] or left + columns > known[1] or (origin is None and (rows, columns) != tuple(known)):
            raise ValueError(
                f"{type(self).__name__} has places for {known[0]} x {known[1]} ids, got {rows} x {columns}"
            )
        self._check_ids(ids)
        places = self.positions[top : top + rows, left : left + columns]
        tokens = (self.embedding(ids) + places).flatten(1, 2)
        of_images = (None, None) if images is None else (images.context, images.valid_hw)
        return VisualFeatures([FeatureMap(tokens, (rows, columns), "vq")], *of_images, vq_ids=ids)

    @torch.no_grad()
    def decode_ids(self, ids: Tensor) -> Tensor:
        """Returns the tiles `[N, 3, H, W]` of ids `[N, h, w]`, see `VQTokenizer.decode_ids`.

        Raises:
            ValueError: An id is outside of the codebook, or the ids are no whole tiles.
        """
        if ids.shape[1:] != self.positions.shape[:2]:
            (rows, columns), (own_rows, own_columns) = ids.shape[1:], self.positions.shape[:2]
            raise ValueError(f"a tile has {own_rows} x {own_columns} ids, got {rows} x {columns}")
        self._check_ids(ids)
        with without_autocast(ids.device.type):
            return self.tokenizer.decode_ids(ids)

    def _check_ids(self, ids: Tensor) -> None:
        if ids.numel() and not ids.is_meta:
            least, most = (int(value) for value in ids.aminmax())
            if least < 0 or most >= self.codebook_size:
                raise ValueError(
                    f"ids from {least} to {most}, and the tokenizer has a codebook of {self.codebook_size}"
                )

    def blank(self, device: torch.device | str) -> ImageBatch:
        """Returns a tile whose ids are 0."""
        ids = torch.zeros(1, *self.positions.shape[:2], dtype=torch.long, device=device)
        return ImageBatch(None, torch.zeros(1, dtype=torch.long, device=device), vq_ids=ids)

    def planned_tile(self, device: torch.device | str) -> ImageBatch:
        """Returns a tile of pixels, which the tokenizer turns into ids."""
        return self.tokenizer.blank(device)

    def flops(self, batch: PackedBatch) -> float:
        """Counts what the tokenizer computes for pixels. It has no backward pass."""
        return self.tokenizer.ids_flops(batch)

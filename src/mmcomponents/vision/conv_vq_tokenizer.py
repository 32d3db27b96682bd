"""Small convolutional image tokenizer with a learned codebook."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from mmcomponents.batch import FeatureMap, ImageBatch, VisualFeatures
from mmcomponents.limits import MAX_ROWS, check_sizes
from mmcomponents.nn.pictures import GROUP, ResidualConv
from mmcomponents.vision.vq_tokenizer import VQTokenizer, nearest_codes


class ConvVQTokenizer(VQTokenizer):
    """Convolutional encoder and decoder with a codebook between them (VQ-VAE, arXiv 1711.00937).

    Features and codes have length one and few channels (ViT-VQGAN, arXiv 2110.04627, section 3.2). Codes that are
    nearest to no feature are not moved: how many are in use depends on the data. The decoder's gradient passes the
    quantisation unchanged.

    Args:
        image_size: Side of a tile in pixels.
        codebook_size: Number of codes.
        code_width: Channels of a code.
        widths: Channels before each halving of the resolution; a patch has `2 ** len(widths)` pixels.

    Raises:
        ValueError: A size is out of range, or a width is not a multiple of 8.
        ValueError: The tile size is not a multiple of the patch size.
    """

    def __init__(
        self, image_size: int = 32, codebook_size: int = 128, code_width: int = 8, widths: tuple[int, ...] = (32, 64)
    ) -> None:
        super().__init__()
        check_sizes(image_size=image_size, code_width=code_width, **{f"widths[{n}]": w for n, w in enumerate(widths)})
        check_sizes(MAX_ROWS, codebook_size=codebook_size)
        if not widths or any(width % GROUP for width in widths):
            raise ValueError(f"widths must be one or more multiples of {GROUP}, got {tuple(widths)}")
        self.image_size, self.codebook_size, self.code_width = image_size, codebook_size, code_width
        self.widths, self.patch_size = tuple(widths), 2 ** len(widths)
        self.hidden_size = (code_width, code_width, 3 * self.patch_size**2)
        self.grid((image_size, image_size))
        down: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(code_width, widths[-1], 3, padding=1), ResidualConv(widths[-1])]
        for before, after in pairwise((*widths, widths[-1])):
            down += [ResidualConv(before), nn.Conv2d(before, after, 4, 2, 1)]
        for before, after in pairwise((widths[-1], *reversed(widths))):
            up += [nn.Upsample(scale_factor=2.0), nn.Conv2d(before, after, 3, padding=1), ResidualConv(after)]
        ends = (nn.GroupNorm(widths[-1] // GROUP, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], code_width, 1))
        self.encoder = nn.Sequential(*down, ResidualConv(widths[-1]), *ends)
        pixels = nn.Conv2d(widths[0], 3, 3, padding=1)
        self.decoder = nn.Sequential(*up, nn.GroupNorm(widths[0] // GROUP, widths[0]), nn.SiLU(), pixels)
        self.codebook = nn.Parameter(torch.empty(codebook_size, code_width))
        self.init_weights()

    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Returns the maps of continuous features, of their codes, and of the pixels decoded from the codes.

        Shapes: `[N, h*w, code_width]` twice, and `[N, h*w, 3*p*p]` with the channels of a patch outermost.
        """
        pixels = self.pixels_of(images)
        hw = self.grid((pixels.shape[-2], pixels.shape[-1]))
        features = self._features(pixels)
        codes = self._codes(self._nearest(features))
        passed = features + (codes - features).detach()
        decoded = patches(self.decoder(passed), self.patch_size)
        maps = [(features.flatten(2).mT, "features"), (codes.flatten(2).mT, "codes"), (decoded, "pixels")]
        return VisualFeatures([FeatureMap(tokens, hw, name) for tokens, name in maps], images.context, images.valid_hw)

    def encode_ids(self, pixels: Tensor) -> Tensor:
        """See the base class.

        Raises:
            ValueError: The tile size is not a multiple of the patch size.
        """
        self.grid((pixels.shape[-2], pixels.shape[-1]))
        return self._nearest(self._features(pixels))

    def decode_ids(self, ids: Tensor) -> Tensor:
        """See the base class."""
        tiles: Tensor = self.decoder(self._codes(ids))
        return tiles

    def _features(self, pixels: Tensor) -> Tensor:
        return normalize(self.encoder(pixels.to(self.codebook.dtype)), dim=1)

    def _nearest(self, features: Tensor) -> Tensor:
        """Returns the ids `[N, h, w]` of the nearest codes."""
        rows, hw = features.detach().movedim(1, -1).flatten(0, 2), features.shape[2:]
        return nearest_codes(rows, normalize(self.codebook.detach().float(), dim=1)).view(-1, *hw)

    def _codes(self, ids: Tensor) -> Tensor:
        return embedding(ids, normalize(self.codebook, dim=1)).permute(0, 3, 1, 2)


def patches(pixels: Tensor, size: int) -> Tensor:
    """Returns the patches of tiles, `[N, 3, H, W]` to `[N, h*w, 3*size*size]`, row by row."""
    return nn.functional.pixel_unshuffle(pixels, size).flatten(2).mT

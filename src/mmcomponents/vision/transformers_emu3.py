"""Image tokenizer of Emu3, wrapped from transformers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from mmcomponents.batch import FeatureMap, ImageBatch, VisualFeatures
from mmcomponents.limits import check_sizes
from mmcomponents.nn.wrapped import read_config
from mmcomponents.vision.vq_tokenizer import VQTokenizer, nearest_codes

_STARTS = {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}
"""Values of the buffers of batch norms before training."""


class Emu3Tokenizer(VQTokenizer):
    """Tokenizer of Emu3 (arXiv 2409.18869, section 3.1), which SynerGen-VL uses: 32,768 codes, one for 8 x 8 pixels.

    It is used as published and not trained: batch norms keep their statistics. Weights are those of a folder of
    transformers, of the tokenizer alone (`Emu3VQVAE`) or of a whole Emu3. Pixels are normalised to -1 to 1.

    Args:
        config: Fields of the configuration with its `model_type`, "emu3_vqgan", a local folder or config.json, or
            the name of a model in the hub's cache; the `vq_config` of a whole Emu3 is used.
        image_size: Side of a tile in pixels.
        tiles_at_once: Number of tiles that are encoded or decoded together. With published sizes, in bf16, one of 512
            pixels takes 2 GiB to be encoded, as transformers repeats it for four frames, and 5 GiB to be decoded.

    Raises:
        ValueError: The configuration is unknown or of another model, or the tile size is not a multiple of the patch.
    """

    frozen: ClassVar[tuple[str, ...]] = ("*",)
    normalization = "siglip"

    def __init__(self, config: dict[str, Any] | str, image_size: int = 512, tiles_at_once: int = 1) -> None:
        from transformers import CONFIG_MAPPING, AutoConfig, Emu3VQVAE  # takes seconds, so it is imported on use

        super().__init__()
        check_sizes(image_size=image_size, tiles_at_once=tiles_at_once)
        self.tiles_at_once = tiles_at_once
        settings = read_config(AutoConfig, CONFIG_MAPPING.keys(), config, trust_remote_code=False)
        settings = getattr(settings, "vq_config", settings)
        if settings.model_type != "emu3_vqgan":
            raise ValueError(f"Emu3Tokenizer wraps emu3_vqgan, not {settings.model_type}")
        self.body = Emu3VQVAE._from_config(settings, dtype=torch.get_default_dtype())
        self.image_size, self.codebook_size = image_size, int(settings.codebook_size)
        self.hidden_size, self.patch_size = int(settings.embed_dim), int(self.body.spatial_scale_factor)
        self.grid((image_size, image_size))
        self.init_weights()

    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Returns the codes of tiles `[N, 3, H, W]` as a map `[N, h*w, embed_dim]`, with their ids."""
        ids = self.encode_ids(self.pixels_of(images))
        codes = self.body.quantize.embedding(ids).flatten(1, 2)
        hw = (ids.shape[1], ids.shape[2])
        return VisualFeatures([FeatureMap(codes, hw, "codes")], images.context, images.valid_hw, ids)

    @torch.no_grad()
    def encode_ids(self, pixels: Tensor) -> Tensor:
        """See the base class.

        Raises:
            ValueError: The tile size is not a multiple of the patch size.
        """
        self.grid((pixels.shape[-2], pixels.shape[-1]))
        return torch.cat([self._ids(tiles) for tiles in pixels.split(self.tiles_at_once)])

    def _ids(self, pixels: Tensor) -> Tensor:
        """Does what the wrapped `encode` does, with distances in fp32."""
        frames = pixels[:, None].repeat(1, self.body.config.temporal_downsample_factor, 1, 1, 1).to(self.body.dtype)
        features = self.body.quant_conv(self.body.encoder(frames).transpose(1, 2)).squeeze(2)
        rows, hw = features.movedim(1, -1).flatten(0, 2), features.shape[2:]
        return nearest_codes(rows, self.body.quantize.embedding.weight).view(-1, *hw)

    @torch.no_grad()
    def decode_ids(self, ids: Tensor) -> Tensor:
        """See the base class."""
        return torch.cat([self.body.decode(some) for some in ids.split(self.tiles_at_once)])

    def train(self, mode: bool = True) -> Emu3Tokenizer:
        """Stays in evaluation mode, as the tokenizer is not trained."""
        super().train(False)
        return self

    def init_buffer(self, name: str, value: Tensor) -> bool:
        """Fills a statistic of a batch norm."""
        start = _STARTS.get(name.rpartition(".")[2])
        if start is not None:
            value.fill_(start)
        return start is not None

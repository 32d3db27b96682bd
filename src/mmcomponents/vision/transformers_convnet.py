"""Convolutional encoders of transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmcomponents.batch import FeatureMap, ImageBatch, PackedBatch, VisualFeatures
from mmcomponents.nn.nf4_linear import linear_weights
from mmcomponents.nn.wrapped import PassThrough, Starts, read_config
from mmcomponents.vision.block_encoder import BlockEncoder

_KINDS = ("convnext", "convnextv2")


class TransformersConvNet(BlockEncoder):
    """ConvNeXt of transformers (arXiv 2201.03545, 2301.00808), whose grid and width change between stages.

    Its map is the output of the last stage, with a place for 32 x 32 pixels. The norm of the pooled map is removed.

    Args:
        config: Fields of the configuration with its `model_type`, convnext or convnextv2, a local folder or
            config.json, or the name of a model in the hub's cache.
        image_size: Side of a tile in pixels. None: that of the configuration.
        trust_remote_code: Whether code in a local folder is executed.

    Raises:
        ValueError: The configuration is unknown or of another model.
    """

    num_prefix = 0

    def __init__(
        self, config: dict[str, Any] | str, image_size: int | None = None, trust_remote_code: bool = False
    ) -> None:
        from transformers import CONFIG_MAPPING, AutoConfig, AutoModel  # takes seconds, so it is imported on use

        super().__init__()
        settings = read_config(AutoConfig, CONFIG_MAPPING.keys(), config, trust_remote_code)
        if settings.model_type not in _KINDS:
            raise ValueError(f"TransformersConvNet wraps {' and '.join(_KINDS)}, not {settings.model_type}")
        settings = copy.deepcopy(settings)
        self.image_size = image_size or int(settings.image_size)
        self.body = AutoModel.from_config(
            settings, dtype=torch.get_default_dtype(), trust_remote_code=trust_remote_code
        )
        self._starts = Starts(self.body, self.body._init_weights)
        self.body.layernorm = PassThrough()  # of the pooled map
        self._starts.keep_only(self.body)
        self.patch_size = int(settings.patch_size)
        self.widths = [int(width) for width in settings.hidden_sizes]
        self.hidden_size = self.widths[-1]
        # Stage and place in it of each block.
        self._places = [(stage, place) for stage, depth in enumerate(settings.depths) for place in range(depth)]
        self.num_blocks = len(self._places)
        self.shard_units = (type(self.body.encoder.stages[0].layers[0]),)
        self.init_weights()

    def block_width(self, count: int) -> int:
        """See the base class."""
        return self.widths[self._stage(count)]

    def block_grid(self, count: int, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        """See the base class.

        Raises:
            ValueError: The tile size is not a multiple of the stride.
        """
        stride = self.patch_size * 2 ** self._stage(count)
        if pixel_hw[0] % stride or pixel_hw[1] % stride:
            raise ValueError(f"a tile of {pixel_hw[0]} x {pixel_hw[1]} pixels is not a multiple of {stride}")
        return pixel_hw[0] // stride, pixel_hw[1] // stride

    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        """Returns rows and columns of the map of the last stage."""
        return self.block_grid(self.num_blocks, pixel_hw)

    def embed(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """See the base class."""
        self.grid((pixels.shape[-2], pixels.shape[-1]))
        return _flat(self.body.embeddings(pixels.to(self.body.embeddings.patch_embeddings.weight.dtype)))

    def run_block(self, index: int, x: Tensor, hw: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """See the base class; the first block of a stage comes after the reduction of the grid."""
        stage, place = self._places[index]
        image = x.transpose(1, 2).unflatten(2, hw)
        own = self.body.encoder.stages[stage]
        for module in own.downsampling_layer if place == 0 else ():
            image = module(image)
        return _flat(own.layers[place](image))

    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Encodes tiles `[N, 3, H, W]` as one map `[N, h*w, C]`."""
        x, hw = self.embed(self.pixels_of(images))
        for index in range(self.num_blocks):
            x, hw = self.run_block(index, x, hw)
        return VisualFeatures([FeatureMap(x, hw)], images.context, images.valid_hw)

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Initialises vectors as transformers does and matrices as all components do."""
        if not self._starts.draw(name.removeprefix("body."), value, generator):
            super().init_parameter(name, value, generator)

    def flops(self, batch: PackedBatch) -> float:
        """Counts the convolutions and the linear maps of the blocks."""
        if batch.images is None:
            return 0.0
        hw, total = batch.images.pixel_hw, 0.0
        rows, columns = self.block_grid(0, hw)
        total += rows * columns * self.body.embeddings.patch_embeddings.weight.numel()
        for count, (stage, place) in enumerate(self._places, start=1):
            rows, columns = self.block_grid(count, hw)
            own = self.body.encoder.stages[stage]
            layer = own.layers[place]
            weights = linear_weights(layer) + layer.dwconv.weight.numel()
            if place == 0:
                weights += sum(m.weight.numel() for m in own.downsampling_layer if isinstance(m, nn.Conv2d))
            total += rows * columns * weights
        return float(2 * batch.images.num_tiles * total)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TransformersConvNet:
        """Moves and casts the weights; buffers outside the state dict keep their values and dtypes."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._starts.restore(self.body)
        return self

    def _stage(self, count: int) -> int:
        return self._places[max(count, 1) - 1][0]


def _flat(image: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Returns the tokens `[N, h*w, C]` of an image `[N, C, h, w]`, and its rows and columns."""
    return image.flatten(2).transpose(1, 2), (int(image.shape[-2]), int(image.shape[-1]))

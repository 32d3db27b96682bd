"""ResNet (He et al. 2016, arXiv 1512.03385) with several maps, for detection.

    pixels ── stem (stride 4) ── stage 1 ── stage 2 (8) ── stage 3 (16) ── stage 4 (32)
                                               C3             C4              C5

Names and shapes of the weights, and where strides lie (in the 3x3 convolution), are those of torchvision.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad, relu

from mmcomponents.batch import FeatureMap, ImageBatch, PackedBatch, VisualFeatures
from mmcomponents.limits import MAX_LAYERS, check_choices, check_sizes
from mmcomponents.nn.valid_places import MaskedGroupNorm, halved, without_padding
from mmcomponents.vision.base import VisionEncoder

Norm = Literal["frozen_batch_norm", "group_norm"]
EXPANSION = 4
"""Width of a stage over that of its 3x3 convolutions."""

_GROUPS = 8
_STRIDE = 32


class FrozenBatchNorm(nn.Module):
    """Batch normalization with fixed statistics, scale and shift, which are buffers with torchvision's names.

    Args:
        width: Number of channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor
        for name, value in _START.items():
            self.register_buffer(name, torch.full((width,), value))

    def forward(self, image: Tensor, valid_hw: Tensor | None = None) -> Tensor:
        """Normalizes maps; what comes out in the padding has no meaning.

        Args:
            image: `[N, C, h, w]`.
            valid_hw: Not used, since the statistics are fixed: `[N, 2]`, as `MaskedGroupNorm` takes it.

        Returns:
            `[N, C, h, w]`.
        """
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return image * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


_START = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def _norm(kind: Norm, width: int) -> nn.Module:
    return FrozenBatchNorm(width) if kind == "frozen_batch_norm" else MaskedGroupNorm(_GROUPS, width)


class Bottleneck(nn.Module):
    """Residual block of a 1x1, a 3x3 and a 1x1 convolution.

    Args:
        width_in: Number of input channels.
        width: Number of channels of the 3x3 convolution; a fourth of the output channels.
        stride: Stride of the 3x3 convolution.
        norm: Kind of the norms.
    """

    def __init__(self, width_in: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        out = width * EXPANSION
        self.stride = stride
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = _norm(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = _norm(norm, width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = _norm(norm, out)
        self.downsample = (
            nn.Sequential(nn.Conv2d(width_in, out, 1, stride=stride, bias=False), _norm(norm, out))
            if stride > 1 or width_in != out
            else None
        )

    def forward(self, image: Tensor, valid_hw: Tensor | None = None) -> Tensor:
        """Computes the block; places in the padding stay zero.

        Args:
            image: `[N, C, h, w]`, zero in the padding.
            valid_hw: `[N, 2]` int64 rows and columns that are not padding. None: there is none.

        Returns:
            `[N, 4 * width, h', w']`.
        """
        after = halved(valid_hw) if self.stride > 1 else valid_hw
        x = without_padding(relu(self.bn1(self.conv1(image), valid_hw)), valid_hw)
        x = without_padding(relu(self.bn2(self.conv2(x), after)), after)
        x = self.bn3(self.conv3(x), after)
        if self.downsample is not None:
            conv, norm = self.downsample
            image = norm(conv(image), after)
        return without_padding(relu(x + image), after)


class ResNet(VisionEncoder):
    """ResNet of bottleneck blocks, whose stages are the maps.

    Tiles of any size are padded at the right and the bottom to multiples of 32. Padding, that of unequal images in one
    pack included, is set to zero after each convolution, so that the maps of an image are those of the image alone.

    Args:
        depths: Number of blocks of each stage; (3, 4, 6, 3) is ResNet-50.
        width: Number of channels of the stem.
        stages: Stages whose outputs are the maps, from 1 on; (2, 3, 4) is C3 to C5.
        image_size: Side in pixels of the tiles that the encoder is meant for.
        norm: "frozen_batch_norm", for weights that were trained elsewhere, or "group_norm", of groups of 8, to train
            from random weights with packs of any size.

    Raises:
        ValueError: A stage does not exist, or stages are not in ascending order.
    """

    shard_units = (Bottleneck,)

    def __init__(
        self,
        depths: tuple[int, ...] = (3, 4, 6, 3),
        width: int = 64,
        stages: tuple[int, ...] = (2, 3, 4),
        image_size: int = 800,
        norm: Norm = "frozen_batch_norm",
    ) -> None:
        super().__init__()
        check_sizes(width=width, image_size=image_size)
        check_sizes(MAX_LAYERS, **{f"depths[{n}]": depth for n, depth in enumerate(depths)})
        check_choices(norm=(norm, Norm))
        if not stages or list(stages) != sorted({*stages}) or not 1 <= stages[0] <= stages[-1] <= len(depths):
            raise ValueError(f"stages {tuple(stages)} must be ascending numbers from 1 to {len(depths)}")
        self.depths, self.stages, self.image_size, self.norm = tuple(depths), tuple(stages), image_size, norm
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = _norm(norm, width)
        before = width
        for number in range(stages[-1]):
            own, blocks = width * 2**number, []
            for block in range(depths[number]):
                blocks.append(Bottleneck(before, own, 2 if number and not block else 1, norm))
                before = own * EXPANSION
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
        self.hidden_size: tuple[int, ...] = tuple(width * 2 ** (stage - 1) * EXPANSION for stage in stages)
        self.init_weights()

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Fills convolutions for ReLU (He et al. 2015, arXiv 1502.01852), and the last norm of a block with zeros."""
        if value.ndim == 4:
            nn.init.normal_(value, std=(2.0 / value[0].numel()) ** 0.5, generator=generator)
        elif name.endswith("bn3.weight"):
            value.zero_()
        else:
            super().init_parameter(name, value, generator)

    def init_std(self, name: str, shape: torch.Size) -> float | None:
        """Returns the standard deviation of the convolutions."""
        return (2.0 / math.prod(shape[1:])) ** 0.5 if len(shape) == 4 else None

    def init_buffer(self, name: str, value: Tensor) -> bool:
        """Fills statistics, scale and shift of a norm so that it changes nothing."""
        value.fill_(_START[name.rpartition(".")[2]])
        return True

    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        """Returns rows and columns of the last map, for tiles that are padded to multiples of 32."""
        return self.grids(pixel_hw)[-1]

    def grids(self, pixel_hw: tuple[int, int]) -> list[tuple[int, int]]:
        """Returns rows and columns of each map."""
        sides = [_STRIDE * -(-side // _STRIDE) for side in pixel_hw]
        return [(sides[0] // 2 ** (s + 1), sides[1] // 2 ** (s + 1)) for s in self.stages]

    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Encodes tiles `[N, 3, H, W]` as a map of each stage, from shallow to deep."""
        pixels = self.pixels_of(images)
        height, width = images.pixel_hw
        below, right = -height % _STRIDE, -width % _STRIDE
        valid = images.valid_hw
        if valid is None and (below or right):
            valid = torch.tensor([[height, width]], device=pixels.device).expand(len(pixels), 2)
        x = without_padding(pad(pixels.to(self.conv1.weight.dtype), (0, right, 0, below)), valid)
        valid = halved(valid)
        x = without_padding(relu(self.bn1(self.conv1(x), valid)), valid)
        valid = halved(valid)
        x = max_pool2d(x, 3, 2, 1)  # of values that are not negative: zeros in the padding change no maximum
        x = without_padding(x, valid)
        maps = []
        for number in range(1, self.stages[-1] + 1):
            for block in self._blocks(number):
                x = block(x, valid)
                valid = halved(valid) if block.stride > 1 else valid
            if number in self.stages:
                maps.append(FeatureMap(x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3]), f"C{number + 1}", valid))
        return VisualFeatures(maps, images.context, images.valid_hw)

    def flops(self, batch: PackedBatch) -> float:
        """Counts the convolutions on tiles that are padded to multiples of 32."""
        if batch.images is None or batch.images.pixels is None:
            return 0.0
        places = 1.0
        for side in batch.images.pixel_hw:
            places *= _STRIDE * -(-side // _STRIDE)
        total = places / 4 * _weights(self.conv1)
        for number in range(1, self.stages[-1] + 1):
            for block in self._blocks(number):
                out = places / 4 ** (number + 1)
                before = out * block.stride**2
                total += before * _weights(block.conv1)
                total += out * (_weights(block.conv2) + _weights(block.conv3))
                total += out * (0 if block.downsample is None else _weights(block.downsample))
        return 2.0 * total * batch.images.num_tiles

    def _blocks(self, stage: int) -> list[Bottleneck]:
        return cast(list[Bottleneck], list(cast(nn.Sequential, self.get_submodule(f"layer{stage}"))))


def _weights(module: nn.Module) -> int:
    """Returns the number of weights of the convolutions in a module."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d))

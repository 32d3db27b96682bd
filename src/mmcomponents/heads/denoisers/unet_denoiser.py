"""Small U-Net over latents."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from mmcomponents.heads.denoisers.base import Denoiser
from mmcomponents.limits import MAX_LAYERS, check_sizes
from mmcomponents.nn.pictures import GROUP, WidenedConv
from mmcomponents.nn.sine_positions import time_embedding


class UNetBlock(nn.Module):
    """Residual block of two convolutions, shifted and scaled by an embedding, then attention to the context.

    Args:
        channels: Input channels.
        width: Output channels.
        embedding: Width of the embedding.
        context_width: Width of the vectors that are attended to.
        num_heads: Number of heads.
    """

    def __init__(self, channels: int, width: int, embedding: int, context_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.GroupNorm(channels // GROUP, channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.norm2 = nn.GroupNorm(width // GROUP, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1)
        self.norm3 = nn.GroupNorm(width // GROUP, width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(context_width, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
        """Computes convolutions, then attention to the context.

        Args:
            x: `[P, channels, h, w]`.
            embedding: `[P, embedding]` noise level and pooled condition.
            context: `[P, n, context_width]`.

        Returns:
            `[P, width, h, w]`.
        """
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        inner = self.norm2(self.conv1(silu(self.norm1(x)))) * (1 + scale) + shift
        x = self.skip(x) + self.conv2(silu(inner))
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.q(self.norm3(x).flatten(2).mT), *self.kv(context).chunk(2, dim=-1))
        )
        read = self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        out: Tensor = x + read.mT.unflatten(2, x.shape[-2:])
        return out


class UNetDenoiser(Denoiser):
    """Small U-Net of blocks with convolutions and cross-attention, the resolution being halved between levels.

    The first convolution reads the noisy latents, and with a weight that is zero at the start those of reference and
    layout. As in SDXL (arXiv 2307.01952), the pooled vector is added to the embedding of the noise level.

    Args:
        latent_channels: Channels of the latents.
        latent_size: Side of the latents.
        widths: Channels of each level, multiples of 8 and of `num_heads`.
        num_blocks: Blocks of a level, downwards and upwards.
        context_width: Width of the vectors that are attended to.
        pooled_width: Width of the pooled vector.
        num_heads: Number of heads of cross-attention.

    Raises:
        ValueError: A size is out of range, a width is no multiple, or the latents cannot be halved that often.
    """

    shard_units: tuple[type[nn.Module], ...] = (UNetBlock,)
    latent_size: int
    added: ClassVar[int] = 2
    """Number of further latents in the input: those of the reference picture and of the layout."""

    def __init__(
        self,
        latent_channels: int = 4,
        latent_size: int = 8,
        widths: tuple[int, ...] = (64, 128),
        num_blocks: int = 2,
        context_width: int = 64,
        pooled_width: int = 64,
        num_heads: int = 4,
    ) -> None:
        super().__init__()
        check_sizes(latent_channels=latent_channels, latent_size=latent_size, num_heads=num_heads)
        check_sizes(context_width=context_width, pooled_width=pooled_width)
        check_sizes(MAX_LAYERS, num_blocks=num_blocks, **{f"widths[{n}]": width for n, width in enumerate(widths)})
        if not widths or any(width % GROUP or width % num_heads for width in widths):
            raise ValueError(f"widths must be multiples of {GROUP} and of num_heads {num_heads}, got {tuple(widths)}")
        if latent_size % 2 ** (len(widths) - 1):
            raise ValueError(f"latents of side {latent_size} cannot be halved {len(widths) - 1} times")
        self.latent_channels, self.latent_size, self.widths = latent_channels, latent_size, tuple(widths)
        self.num_blocks, self.num_heads = num_blocks, num_heads
        self.context_width, self.pooled_width = context_width, pooled_width
        inner = 4 * widths[0]
        self.time = nn.Sequential(nn.Linear(widths[0], inner), nn.SiLU(), nn.Linear(inner, inner))
        self.pool = nn.Linear(pooled_width, inner)
        self.enter = WidenedConv(latent_channels, self.added * latent_channels, widths[0])
        shared = (inner, context_width, num_heads)
        down, between, skips, channels = [], [], [widths[0]], widths[0]
        for level, width in enumerate(widths):
            if level:
                between.append(nn.Conv2d(channels, channels, 3, 2, 1))
                skips.append(channels)
            for _ in range(num_blocks):
                down.append(UNetBlock(channels, width, *shared))
                channels = width
                skips.append(width)
        self.down, self.between = nn.ModuleList(down), nn.ModuleList(between)
        self.middle = UNetBlock(channels, channels, *shared)
        up = []
        for width in reversed(widths):
            for _ in range(num_blocks + 1):
                up.append(UNetBlock(channels + skips.pop(), width, *shared))
                channels = width
        self.up = nn.ModuleList(up)
        self.norm = nn.GroupNorm(channels // GROUP, channels)
        self.leave = nn.Conv2d(channels, latent_channels, 3, padding=1)
        self.init_weights()

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Sets the weight of the latents of reference and layout to zero, see `Component.init_parameter`."""
        if name == "enter.added":
            value.zero_()
        else:
            super().init_parameter(name, value, generator)

    def forward(self, latents: Tensor, level: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        """See the base class."""
        dtype = self.leave.weight.dtype
        embedding = silu(self.time(time_embedding(level, self.widths[0]).to(dtype)) + self.pool(pooled))
        x = self.enter(latents.to(dtype))
        kept = [x]
        for level_of, _ in enumerate(self.widths):
            if level_of:
                x = self.between[level_of - 1](x)
                kept.append(x)
            for block in self.down[level_of * self.num_blocks : (level_of + 1) * self.num_blocks]:
                x = block(x, embedding, context)
                kept.append(x)
        x = self.middle(x, embedding, context)
        for number, block in enumerate(self.up):
            if number and not number % (self.num_blocks + 1):
                x = interpolate(x, scale_factor=2.0)
            x = block(torch.cat((x, kept.pop()), dim=1), embedding, context)
        out: Tensor = self.leave(silu(self.norm(x)))
        return out

    def flops_of(self, height: int, width: int) -> float:
        """Counts convolutions and maps over places; those over the context and embeddings are small."""
        last, blocks = len(self.widths) - 1, self.num_blocks
        at = [(block, number // blocks) for number, block in enumerate(self.down)]
        at += [(self.middle, last), *((block, last - n // (blocks + 1)) for n, block in enumerate(self.up))]
        total = 0.0
        for block, halvings in at:
            weights = sum(p.numel() for name, p in block.named_parameters() if _of_places(name))
            total += 2.0 * height * width / 4**halvings * weights
        for halvings, halving in enumerate(self.between, start=1):
            kernels = sum(p.numel() for p in halving.parameters() if p.ndim == 4)
            total += 2.0 * height * width / 4**halvings * kernels
        ends = self.enter.weight.numel() + self.enter.added.numel() + self.leave.weight.numel()
        return total + 2.0 * height * width * ends


def _of_places(name: str) -> bool:
    """Whether a weight of a block is applied at each place."""
    return name.endswith("weight") and name.split(".")[0] in ("conv1", "conv2", "skip", "q", "proj")

"""InternViT, the vision encoder of InternVL.

Reference code: OpenGVLab/InternVL.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mmcomponents.batch import FeatureMap, ImageBatch, PackedBatch, VisualFeatures
from mmcomponents.limits import MAX_LAYERS, check_choices, check_numbers, check_sizes
from mmcomponents.nn.attention import Segments, attention
from mmcomponents.nn.attention.packed import Backend
from mmcomponents.nn.drop_path import DropPath
from mmcomponents.nn.mlp import MLP
from mmcomponents.nn.nf4_linear import linear_weights
from mmcomponents.nn.norm import RMSNorm
from mmcomponents.vision.base import patch_grid
from mmcomponents.vision.block_encoder import BlockEncoder

Norm = Literal["layer_norm", "rms_norm"]


class InternViTAttention(nn.Module):
    """Full attention over the patches of one tile.

    Args:
        hidden_size: Width, C.
        num_heads: Number of heads.
        qkv_bias: Whether the query, key and value maps have biases.
        qk_norm: Whether queries and keys go through an RMSNorm over the full width, before they are split into heads.
        eps: Epsilon of that norm.
        backend: Attention backend.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, qkv_bias: bool, qk_norm: bool, eps: float, backend: Backend
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.backend: Backend = backend
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=qkv_bias)
        self.q_norm = RMSNorm(hidden_size, eps=eps) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(hidden_size, eps=eps) if qk_norm else nn.Identity()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """Maps `[N, L, C]` to `[N, L, C]`."""
        q, k, v = self.qkv(x.flatten(0, 1)).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)) for t in (self.q_norm(q), self.k_norm(k), v))
        out: Tensor = self.proj(attention(q, k, v, segments, causal=False, backend=self.backend).flatten(1))
        return out.view(x.shape)


class InternViTBlock(nn.Module):
    """Pre-norm block with layer scale (`ls1`, `ls2`) and stochastic depth on both branches.

    Args:
        attn: Attention of the block.
        hidden_size: Width, C.
        intermediate_size: Inner width of the MLP.
        norm: Type of both norms.
        eps: Epsilon of both norms.
        drop_path: Probability that a branch is dropped.
    """

    def __init__(
        self,
        attn: InternViTAttention,
        hidden_size: int,
        intermediate_size: int,
        norm: Norm,
        eps: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        kind = nn.LayerNorm if norm == "layer_norm" else RMSNorm
        self.norm1 = kind(hidden_size, eps=eps)
        self.attn = attn
        self.ls1 = nn.Parameter(torch.empty(hidden_size))
        self.norm2 = kind(hidden_size, eps=eps)
        self.mlp = MLP(hidden_size, intermediate_size)
        self.ls2 = nn.Parameter(torch.empty(hidden_size))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """Maps `[N, L, C]` to `[N, L, C]`."""
        x = x + self.drop_path(self.attn(self.norm1(x), segments) * self.ls1)
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)) * self.ls2)
        return out


class InternViT(BlockEncoder):
    """InternViT (InternVL, arXiv 2312.14238; 300M and 6B: InternVL2.5, arXiv 2412.05271, section 2).

    The 300M uses LayerNorm and qkv biases; the 6B uses RMSNorm, no qkv bias and q/k norm. There is a class token and a
    learned position embedding, resized bicubically for other grids; no norm follows the last block.

    Args:
        hidden_size: Width, C.
        num_layers: Number of blocks.
        num_heads: Number of attention heads.
        intermediate_size: Inner width of the MLPs.
        image_size: Side of a tile in pixels, which sets the size of the position embedding.
        patch_size: Side of a patch in pixels.
        norm: "layer_norm" or "rms_norm".
        qkv_bias: Whether q, k and v have biases.
        qk_norm: Whether there is an RMSNorm over the full width of queries and keys.
        eps: Epsilon of all norms.
        layer_scale: Initial value of the layer scale.
        drop_path: Drop rate of the last block; the rate grows linearly from 0 over the depth.
        levels: Maps to return: 0 is the input of the first block, k the output of block k, -1 that of the last block.
        attention: Attention backend.

    Raises:
        ValueError: A size is out of range or does not fit another, or `norm` is unknown.
    """

    shard_units: tuple[type[nn.Module], ...] = (InternViTBlock,)
    num_prefix = 1

    def __init__(
        self,
        hidden_size: int = 1024,
        num_layers: int = 24,
        num_heads: int = 16,
        intermediate_size: int = 4096,
        image_size: int = 448,
        patch_size: int = 14,
        norm: Norm = "layer_norm",
        qkv_bias: bool = True,
        qk_norm: bool = False,
        eps: float = 1e-6,
        layer_scale: float = 0.1,
        drop_path: float = 0.0,
        levels: tuple[int, ...] = (-1,),
        attention: Backend = "auto",
    ) -> None:
        super().__init__()
        self.norm, self.qk_norm, self.drop_path = norm, qk_norm, drop_path
        self.num_layers, self.num_heads, self.intermediate_size = num_layers, num_heads, intermediate_size
        check_sizes(MAX_LAYERS, num_layers=num_layers)
        check_sizes(hidden_size=hidden_size, num_heads=num_heads, intermediate_size=intermediate_size)
        check_sizes(image_size=image_size, patch_size=patch_size)
        check_numbers(eps=eps, layer_scale=layer_scale, drop_path=drop_path)
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}")
        check_choices(norm=(norm, Norm), attention=(attention, Backend))
        self.levels = tuple(level + num_layers + 1 if level < 0 else level for level in levels)
        increasing = list(self.levels) == sorted(set(self.levels))
        if not self.levels or not increasing or self.levels[0] < 0 or self.levels[-1] > num_layers:
            raise ValueError(f"levels {levels} must increase and lie between 0 and {num_layers}")
        self.hidden_size = hidden_size if len(self.levels) == 1 else (hidden_size,) * len(self.levels)
        self.num_blocks = self.levels[-1]  # those above the last level are not built
        self.image_size = image_size
        self.patch_size = patch_size
        self.layer_scale = layer_scale
        rows, columns = self.grid((image_size, image_size))
        self.patch_embedding = nn.Conv2d(3, hidden_size, patch_size, stride=patch_size)
        self.class_embedding = nn.Parameter(torch.empty(1, 1, hidden_size))
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + rows * columns, hidden_size))
        self.blocks = nn.ModuleList(
            InternViTBlock(
                InternViTAttention(hidden_size, num_heads, qkv_bias, qk_norm, eps, attention),
                hidden_size,
                intermediate_size,
                norm,
                eps,
                drop_path * i / max(num_layers - 1, 1),
            )
            for i in range(self.num_blocks)
        )
        self.init_weights()

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Fills layer scales with `layer_scale`; draws class token and positions with deviation `width ** -0.5`."""
        if name.endswith((".ls1", ".ls2")):
            value.fill_(self.layer_scale)
        elif name.endswith("_embedding"):
            nn.init.normal_(value, std=value.shape[-1] ** -0.5, generator=generator)
        else:
            super().init_parameter(name, value, generator)

    def init_std(self, name: str, shape: torch.Size) -> float | None:
        """Returns the standard deviations of `init_parameter`."""
        if name.endswith((".ls1", ".ls2")):
            return None
        return shape[-1] ** -0.5 if name.endswith("_embedding") else super().init_std(name, shape)

    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of patches.

        Raises:
            ValueError: The tile size is not a multiple of the patch size.
        """
        return patch_grid(pixel_hw, self.patch_size)

    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Encodes tiles `[N, 3, H, W]` as one map `[N, h*w, C]` per level, without the class token."""
        x, hw = self.embed(self.pixels_of(images))
        segments = Segments.uniform(x.shape[0], x.shape[1], x.device)
        maps = []
        for level in range(self.levels[-1] + 1):
            if level > 0:
                x = self.blocks[level - 1](x, segments)
            if level in self.levels:
                maps.append(FeatureMap(x[:, 1:], hw, f"block{level}"))
        return VisualFeatures(maps, images.context, images.valid_hw)

    def embed(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """See the base class: patches and class token with their positions, `[N, 1 + rows*columns, C]`."""
        hw = self.grid((pixels.shape[-2], pixels.shape[-1]))
        patches = self.patch_embedding(pixels.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.class_embedding.expand(patches.shape[0], -1, -1), patches), dim=1)
        return tokens + self._positions(hw), hw

    def run_block(self, index: int, x: Tensor, hw: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """See the base class."""
        return self.blocks[index](x, Segments.uniform(x.shape[0], x.shape[1], x.device)), hw

    def flops(self, batch: PackedBatch) -> float:
        """Counts the patch embedding, the blocks that run, and attention over patches and class token of each tile."""
        if batch.images is None:
            return 0.0
        height, width = self.pixels_of(batch.images).shape[-2:]
        rows, columns = self.grid((height, width))
        tiles, length = batch.images.num_tiles, rows * columns + 1
        each = 2 * (length - 1) * self.patch_embedding.weight.numel()
        width = self.class_embedding.shape[-1]
        for block in self.blocks[: self.levels[-1]]:
            each += 2 * length * linear_weights(block) + 4 * length**2 * width
        return float(tiles * each)

    def _positions(self, hw: tuple[int, int]) -> Tensor:
        """Returns the position embedding `[1, 1 + h*w, C]`, resized if the grid differs."""
        embedding = self.position_embedding
        own = self.grid((self.image_size, self.image_size))
        if hw == own:
            return embedding
        grid = embedding[:, 1:].float().transpose(1, 2).unflatten(2, own)
        grid = interpolate(grid, size=hw, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
        return torch.cat((embedding[:, :1], grid.to(embedding.dtype)), dim=1)

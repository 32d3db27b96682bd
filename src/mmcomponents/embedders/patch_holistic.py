"""Holistic embedding whose layers see all patches of an image, which are contracted after them.

Source: HoVLE (arXiv 2412.16158). Reference code: OpenGVLab/HoVLE on the Hugging Face hub.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from mmcomponents.batch import Layout, PackedBatch
from mmcomponents.component import Composition, WiringError
from mmcomponents.embedders.holistic import HolisticEmbedder
from mmcomponents.embedders.token import TokenEmbedder
from mmcomponents.limits import check_sizes
from mmcomponents.nn.attention.packed import Backend
from mmcomponents.nn.cache import KVCache
from mmcomponents.nn.decoder_layer import layers_flops
from mmcomponents.nn.nf4_linear import linear_weights
from mmcomponents.nn.recompute import recomputed_input
from mmcomponents.nn.runtime import Runtime


class PatchHolisticEmbedder(HolisticEmbedder):
    """Decoder layers over text tokens and patches, then a contraction of each block of patches (HoVLE's code, "post").

    A visual token holds the patches of a block side by side, as `PixelUnshuffle` makes them. Within the embedder the
    patches of a tile are a sequence in row-major order; after the layers, those of a block are joined again and mapped
    to the width of the model by Linear, GELU and Linear. A tile cannot be cut between two calls with a cache.

    Args:
        vocab_size: Vocabulary size.
        hidden_size: Width, d.
        num_layers: Number of layers, from 0.
        num_heads: Number of query heads.
        intermediate_size: Inner width of the feed-forward blocks.
        grid: Rows and columns of the patches of a tile.
        rows: Height of a block in patches.
        columns: Width of a block in patches.
        num_kv_heads: Number of key and value heads; None: as many as query heads.
        head_dim: Width of a head, that of the backbone's; None: hidden_size / num_heads.
        qkv_bias: Whether q, k and v have biases.
        qk_norm: Whether there is an RMSNorm over each head of queries and keys.
        eps: Epsilon of all norms.
        attention: Attention backend.

    Raises:
        ValueError: A size is out of range, or is not a multiple of another.
    """

    visual_features: int

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        grid: tuple[int, int] = (32, 32),
        rows: int = 2,
        columns: int = 2,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        eps: float = 1e-5,
        attention: Backend = "auto",
    ) -> None:
        super().__init__(
            vocab_size,
            hidden_size,
            num_layers,
            num_heads,
            intermediate_size,
            num_kv_heads,
            head_dim,
            qkv_bias,
            qk_norm,
            eps,
            attention,
        )
        check_sizes(height=grid[0], width=grid[1], rows=rows, columns=columns)
        if grid[0] % rows or grid[1] % columns:
            raise ValueError(f"a grid of {grid[0]} x {grid[1]} patches is not a multiple of {rows} x {columns} blocks")
        self.grid, self.rows, self.columns = (grid[0], grid[1]), rows, columns
        self.visual_features = rows * columns * hidden_size
        self._side: int | None = None  # of a tile in pixels, which `check` reads from the encoder
        self.fc1 = nn.Linear(self.visual_features, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)
        self.init_weights()

    @property
    def tokens_per_tile(self) -> int:
        """Number of visual tokens of a tile."""
        return self.grid[0] * self.grid[1] // (self.rows * self.columns)

    def check(self, model: Composition) -> None:
        """Checks heads, the grid of the encoder, and the blocks of the merger.

        Raises:
            WiringError: They differ from those of the embedder.
        """
        super().check(model)
        own = f"{type(self).__name__} takes"
        if model.vision is None:
            return
        self._side = model.vision.image_size
        rows, columns = model.vision.grid((self._side, self._side))
        if (rows, columns) != self.grid:
            raise WiringError(
                f"{type(model.vision).__name__} gives {rows} x {columns} patches of a tile and {own} {self.grid[0]} x"
                f" {self.grid[1]}"
            )
        if model.tokens_per_tile != self.tokens_per_tile:
            raise WiringError(
                f"{type(model.merger or model.vision).__name__} gives {model.tokens_per_tile} visual tokens of a tile"
                f" and {own} {self.tokens_per_tile}"
            )
        block = [getattr(model.merger, name, getattr(self, name)) for name in ("rows", "columns")]
        if block != [self.rows, self.columns] or getattr(model.merger, "order", "v2") != "v2":
            raise WiringError(
                f"{type(model.merger).__name__} joins {block[0]} x {block[1]} patches in the order"
                f" {getattr(model.merger, 'order', 'v2')} and {own} {self.rows} x {self.columns} in the order v2"
            )

    def forward(self, batch: PackedBatch, visual_tokens: Tensor | None, runtime: Runtime | None = None) -> Tensor:
        """Embeds a pack as `[T, d]`.

        Raises:
            ValueError: A tile is not whole, or of another size than the encoder's; or see the base class.
        """
        pixels = None if batch.images is None else batch.images.pixels
        if pixels is not None and self._side is not None and pixels.shape[-2:] != (self._side, self._side):
            raise ValueError(
                f"{type(self).__name__} takes tiles of {self._side} x {self._side} pixels, and these have"
                f" {pixels.shape[-2]} x {pixels.shape[-1]}"
            )
        x = TokenEmbedder.forward(self, batch, None, runtime)
        places = (batch.visual_index >= 0).nonzero()[:, 0]
        self._check_tiles(batch.visual_index[places], places)
        layout, first, source, patch = self._expanded(batch)
        table = x if visual_tokens is None else torch.cat((x, self._patches(visual_tokens).to(x.dtype)))
        y = table[torch.where(patch >= 0, patch + x.shape[0], source)]
        outer = None if runtime is None else runtime.cache
        cache = None if outer is None else outer.inner("embedder")
        if cache is not None and outer is not None:
            layout = self._continued(layout, cache, outer)
        y = self._run(y, layout, cache)
        block = torch.arange(self.rows * self.columns, device=places.device)
        contracted = self._contracted(y[(first[places, None] + block).flatten()])
        return y[first].index_copy(0, places, contracted)

    def flops(self, batch: PackedBatch) -> float:
        """Counts the layers over all positions of the inner sequence, and the two matrices of the contraction."""
        count = int((batch.visual_index >= 0).sum())
        contraction = 2.0 * count * (linear_weights(self.fc1) + linear_weights(self.fc2))
        return layers_flops(self.layers, self._expanded(batch)[0].cu_seqlens) + contraction

    def _check_tiles(self, index: Tensor, places: Tensor) -> None:
        """Checks that the visual tokens at some places are whole tiles, each in one piece and in order.

        Raises:
            ValueError: They are not.
        """
        per_tile, numbers = self.tokens_per_tile, torch.arange(len(index), device=index.device)
        step = numbers % per_tile
        start = numbers - step
        wrong = (index != index[start] + step) | (places != places[start] + step) | (index[start] % per_tile != 0)
        wrong |= start + per_tile > len(index)
        if bool(wrong.any()):
            at = int(start[wrong][0])
            raise ValueError(
                f"{type(self).__name__} takes whole tiles of {per_tile} visual tokens, and visual token"
                f" {int(index[at])} at position {int(places[at])} of this call is without the rest of its tile: a tile"
                " cannot be cut between two pieces of a prefill"
            )

    def _expanded(self, batch: PackedBatch) -> tuple[Layout, Tensor, Tensor, Tensor]:
        """Returns the inner sequence of T' positions, which has a position for each patch of a visual token.

        Returns:
            Its layout, without cached positions; `[T]` first inner position of each position; `[T']` position that each
            inner one belongs to; `[T']` index of its patch, -1 for none.
        """
        outer, block = batch.layout, self.rows * self.columns
        ends = torch.where(batch.visual_index >= 0, block, 1).cumsum(0)
        starts = torch.cat((ends.new_zeros(1), ends))
        bounds, first = starts[outer.cu_seqlens.long()], starts[:-1]
        total, longest = torch.stack((bounds[-1], bounds.diff().max())).tolist()
        numbers = torch.arange(total, device=ends.device)
        source = torch.searchsorted(ends, numbers, right=True)
        visual = batch.visual_index[source]
        layout = replace(
            outer,
            token_type=outer.token_type[source],
            cu_seqlens=bounds.to(outer.cu_seqlens.dtype),
            max_seqlen=longest,
            image_id=outer.image_id[source],
            grid=outer.grid * outer.grid.new_tensor((1, self.rows, self.columns)),
        )
        return layout, first, source, torch.where(visual >= 0, visual * block + numbers - first[source], -1)

    def _continued(self, layout: Layout, cache: KVCache, outer: KVCache) -> Layout:
        """Begins a call of the cache of the inner sequence, and returns the layout after its cached positions."""
        cache.begin(layout)
        if not self.num_layers:
            return layout
        lengths = layout.prefill_len
        if lengths is not None:  # what is decoded has as many inner positions as outer ones
            more = [inner - own for inner, own in zip(cache.next_lengths, outer.next_lengths, strict=True)]
            lengths = lengths + torch.tensor(more, device=lengths.device)
        layout = replace(layout, last_ticks=cache.last_ticks, prefill_len=lengths)
        cache.keep_ticks(self._rotations().ticks(layout)[layout.cu_seqlens[1:].long() - 1])
        return layout

    def _patches(self, visual_tokens: Tensor) -> Tensor:
        """Splits visual tokens `[R, block * d]` into patches `[R * block, d]`, row-major within each tile."""
        height, width = self.grid[0] // self.rows, self.grid[1] // self.columns
        blocks = visual_tokens.view(-1, height, width, self.rows, self.columns, self.hidden_size)
        return blocks.transpose(2, 3).reshape(-1, self.hidden_size)

    def _contracted(self, patches: Tensor) -> Tensor:
        """Maps the patches of whole tiles to `[V, d]`, one row for each block."""
        height, width = self.grid[0] // self.rows, self.grid[1] // self.columns
        blocks = patches.view(-1, height, self.rows, width, self.columns, self.hidden_size).transpose(2, 3)
        return recomputed_input(self.fc2, gelu, self.fc1(blocks.reshape(-1, self.visual_features)))

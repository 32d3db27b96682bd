"""Holistic embedding of HoVLE: decoder layers over text and image tokens before the language model.

Reference code: OpenGVLab/HoVLE on the Hugging Face hub.
"""

from __future__ import annotations

from torch import Tensor

from mmcomponents.batch import Layout, PackedBatch
from mmcomponents.component import Composition, WiringError
from mmcomponents.embedders.base import Rotations
from mmcomponents.embedders.token import TokenEmbedder
from mmcomponents.limits import MAX_LAYERS, check_sizes
from mmcomponents.nn.attention.packed import Backend
from mmcomponents.nn.cache import KVCache
from mmcomponents.nn.decoder_layer import DecoderLayer, decoder_layers, layers_flops, run_layers
from mmcomponents.nn.runtime import Runtime


class HolisticEmbedder(TokenEmbedder):
    """Token embeddings and visual tokens, then causal decoder layers over the mixed sequence (HoVLE, arXiv 2412.16158).

    The form of the released model with `pixel_shuffle_loc` "pre": merger and projector are before it. There is no norm
    after the layers. Positions are those of the model's position part. Without layers it is a `TokenEmbedder`.

    Args:
        vocab_size: Vocabulary size.
        hidden_size: Width, d.
        num_layers: Number of layers, from 0.
        num_heads: Number of query heads.
        intermediate_size: Inner width of the feed-forward blocks.
        num_kv_heads: Number of key and value heads; None: as many as query heads.
        head_dim: Width of a head, that of the backbone's; None: hidden_size / num_heads.
        qkv_bias: Whether q, k and v have biases.
        qk_norm: Whether there is an RMSNorm over each head of queries and keys.
        eps: Epsilon of all norms.
        attention: Attention backend.

    Raises:
        ValueError: A size is out of range, or is not a multiple of another.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        eps: float = 1e-5,
        attention: Backend = "auto",
    ) -> None:
        super().__init__(vocab_size, hidden_size)
        self.num_layers, self.num_heads, self.intermediate_size = num_layers, num_heads, intermediate_size
        self.num_kv_heads = num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_layers != 0:
            check_sizes(MAX_LAYERS, num_layers=num_layers)
            self.shard_units = (DecoderLayer,)
        self.layers = decoder_layers(
            num_layers,
            hidden_size,
            num_heads,
            num_kv_heads,
            head_dim,
            intermediate_size,
            qkv_bias,
            qk_norm,
            eps,
            attention,
        )
        self.head_dim = hidden_size // num_heads if head_dim is None else head_dim
        self._position: tuple[Rotations, ...] = ()  # in a tuple, so that it is no submodule
        self.init_weights()

    def bind(self, position: Rotations | None) -> None:
        """Gets the position part of the model.

        Raises:
            WiringError: There is none.
        """
        if position is None and self.num_layers:
            raise WiringError(
                f"{type(self).__name__} has {self.num_layers} layers with positions and the position slot is empty"
            )
        self._position = () if position is None else (position,)

    def check(self, model: Composition) -> None:
        """Checks that the heads have the width that the position part is made for.

        Raises:
            WiringError: They do not.
        """
        made_for = getattr(model.position, "head_dim", self.head_dim)
        if self.num_layers and made_for != self.head_dim:
            raise WiringError(
                f"{type(model.position).__name__} is made for heads of {made_for} and {type(self).__name__} has"
                f" {self.head_dim}"
            )

    def forward(self, batch: PackedBatch, visual_tokens: Tensor | None, runtime: Runtime | None = None) -> Tensor:
        """Embeds a pack as `[T, d]`.

        Raises:
            ValueError: `runtime.inserted` does not have one embedding per position of its type, or there are layers and
                no position part (`bind`).
        """
        x = super().forward(batch, visual_tokens, runtime)
        cache = None if runtime is None or runtime.cache is None else runtime.cache.view("embedder.")
        return self._run(x, batch.layout, cache)

    def flops(self, batch: PackedBatch) -> float:
        """Counts the layers over all positions."""
        return layers_flops(self.layers, batch.layout.cu_seqlens)

    def _run(self, x: Tensor, layout: Layout, cache: KVCache | None) -> Tensor:
        if not self.num_layers:
            return x
        return run_layers(self.layers, x, layout, self._rotations().rotary(layout), cache)

    def _rotations(self) -> Rotations:
        if not self._position:
            raise ValueError(f"{type(self).__name__} has layers and no positions: call bind with a position part")
        return self._position[0]

"""Embedder of InternVL: token embeddings, and visual tokens at their positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmcomponents.batch import PackedBatch
from mmcomponents.embedders.base import Embedder
from mmcomponents.limits import MAX_ROWS, check_sizes
from mmcomponents.nn.runtime import Runtime


class TokenEmbedder(Embedder):
    """Embeds token ids and places visual tokens at the positions that point to them.

    Args:
        vocab_size: Vocabulary size.
        hidden_size: Width.
    """

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        check_sizes(MAX_ROWS, vocab_size=vocab_size)
        check_sizes(hidden_size=hidden_size)
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        self.init_weights()

    def embedding_weight(self) -> Tensor:
        """Returns the `[vocab, d]` parameter."""
        return self.embedding.weight

    def forward(self, batch: PackedBatch, visual_tokens: Tensor | None, runtime: Runtime | None = None) -> Tensor:
        """Embeds a pack as `[T, d]`.

        Raises:
            ValueError: `runtime.inserted` does not have one embedding per position of its type.
        """
        x: Tensor = self.embedding(batch.input_ids)
        if visual_tokens is not None:
            index = batch.visual_index
            x = torch.where((index >= 0)[:, None], visual_tokens.to(x.dtype)[index.clamp(min=0)], x)
        for kind, given in (runtime.inserted if runtime else {}).items():
            mask = batch.layout.token_type == kind
            if int(mask.sum()) != given.shape[0]:
                raise ValueError(f"{given.shape[0]} tokens for the {int(mask.sum())} positions of type {kind.name}")
            x = x.masked_scatter(mask[:, None], given.to(x.dtype))
        return x

"""The embedder of InternVL: a word table, and visual rows at their places."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmcomponents.batch import PackedBatch, Runtime
from mmcomponents.embedders.base import Embedder


class TokenEmbedder(Embedder):
    """Looks words up in a table and puts visual rows where the pack points to them.

    Args:
        vocab_size: Rows of the table.
        hidden_size: Width.
    """

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        self.init_weights()

    def word_table(self) -> Tensor:
        """The `[vocab, d]` parameter."""
        return self.embedding.weight

    def forward(self, batch: PackedBatch, rows: Tensor | None, runtime: Runtime | None = None) -> Tensor:
        """Embeds a pack as `[T, d]`.

        Raises:
            ValueError: The runtime's rows for a token type are not as many as its positions.
        """
        x: Tensor = self.embedding(batch.input_ids)
        if rows is not None:
            index = batch.visual_index
            x = torch.where((index >= 0)[:, None], rows.to(x.dtype)[index.clamp(min=0)], x)
        for kind, given in (runtime.rows if runtime else {}).items():
            places = batch.layout.token_type == kind
            if int(places.sum()) != given.shape[0]:
                raise ValueError(f"{given.shape[0]} rows for the {int(places.sum())} positions of type {kind.name}")
            x = x.masked_scatter(places[:, None], given.to(x.dtype))
        return x

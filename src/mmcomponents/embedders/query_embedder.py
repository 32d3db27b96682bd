"""Token embedder with learned queries, whose hidden states condition a generator of pictures.

Reference code: rongyaofang/GoT.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmcomponents.batch import PackedBatch, TokenType
from mmcomponents.embedders.token import TokenEmbedder
from mmcomponents.limits import MAX_ROWS, check_sizes
from mmcomponents.nn.runtime import Runtime


class QueryEmbedder(TokenEmbedder):
    """`TokenEmbedder` with learned vectors at positions of type `QUERY`: the image queries of GoT (arXiv 2503.10639).

    The id at such a position is the number of its query. The vectors are apart from the embedding weight, so that the
    vocabulary stays as it is.

    Args:
        vocab_size: Vocabulary size.
        hidden_size: Width.
        num_queries: Number of queries of a picture.

    Raises:
        ValueError: A size is out of range.
    """

    def __init__(self, vocab_size: int, hidden_size: int, num_queries: int = 64) -> None:
        check_sizes(MAX_ROWS, num_queries=num_queries)
        super().__init__(vocab_size, hidden_size)
        self.num_queries = num_queries
        self.queries = nn.Parameter(torch.empty(num_queries, hidden_size))
        self.init_weights()

    def forward(self, batch: PackedBatch, visual_tokens: Tensor | None, runtime: Runtime | None = None) -> Tensor:
        """Embeds a pack as `[T, d]`, see `TokenEmbedder`.

        Raises:
            ValueError: A query has another number than those from 0 to `num_queries` - 1.
        """
        x = super().forward(batch, visual_tokens, runtime)
        is_query = batch.layout.token_type == TokenType.QUERY
        number = torch.where(is_query, batch.input_ids, 0)
        most = int(number.max()) if number.numel() and not number.is_meta else 0
        if most >= self.num_queries:
            raise ValueError(f"the pack has query {most} and {type(self).__name__} has {self.num_queries} queries")
        return torch.where(is_query[:, None], self.queries[number].to(x.dtype), x)

"""Token embedder with a learned vector for prompts that are left out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmcomponents.batch import PackedBatch, TokenType
from mmcomponents.embedders.token import TokenEmbedder
from mmcomponents.nn.runtime import Runtime


class GuidedEmbedder(TokenEmbedder):
    """`TokenEmbedder` that adds a learned vector at positions of type `QUERY`: the unconditional token of SynerGen-VL.

    A prompt that is left out in training is replaced by a sentence with this token (arXiv 2412.09604, section 4.1), and
    guidance compares the answers to both. The vector is zero until a prompt has been left out, by which `ImageSampler`
    knows a model that cannot be guided. It is apart from the embedding weight, which stays frozen in the first stage.

    Args:
        vocab_size: Vocabulary size.
        hidden_size: Width.
    """

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__(vocab_size, hidden_size)
        self.unconditional = nn.Parameter(torch.empty(hidden_size))
        self.init_weights()

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Sets the learned vector to zero."""
        if name == "unconditional":
            value.zero_()
        else:
            super().init_parameter(name, value, generator)

    def forward(self, batch: PackedBatch, visual_tokens: Tensor | None, runtime: Runtime | None = None) -> Tensor:
        """Embeds a pack as `[T, d]`, see `TokenEmbedder`."""
        x = super().forward(batch, visual_tokens, runtime)
        is_left_out = (batch.layout.token_type == TokenType.QUERY)[:, None]
        return x + is_left_out.to(x.dtype) * self.unconditional.to(x.dtype)

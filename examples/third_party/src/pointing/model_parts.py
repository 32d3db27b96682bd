"""Parts of the model: the embedder of noisy actions, and the head that computes velocities."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from mmcomponents.batch import ModelState, PackedBatch, TokenType
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import Head
from mmcomponents.nn.runtime import Runtime
from pointing.noisy_actions import NOISY, NoisyActions


class NoisyActionEmbedder(TokenEmbedder):
    """Token embeddings, and embeddings of noisy actions and their time at the positions of type ACTION.

    Args:
        vocab_size: Vocabulary size.
        hidden_size: Width.
        action_width: Values of an action.
    """

    def __init__(self, vocab_size: int, hidden_size: int, action_width: int = 2) -> None:
        super().__init__(vocab_size, hidden_size)
        self.action_width = action_width
        self.inner = nn.Linear(action_width + 1, hidden_size)
        self.outer = nn.Linear(hidden_size, hidden_size)
        self.init_weights()

    def forward(self, batch: PackedBatch, visual_tokens: Tensor | None, runtime: Runtime | None = None) -> Tensor:
        """Embeds a pack as `[T, d]`.

        A pack without noisy actions embeds zero of them, so that all ranks run the same graph.

        Raises:
            ValueError: The noisy actions have another width, or another number than their positions.
        """
        noisy = batch.extras.get(NOISY)
        weight = self.inner.weight
        values = weight.new_zeros(0, self.action_width + 1)
        if isinstance(noisy, NoisyActions):
            actions, time = noisy.values.tensor, noisy.time.tensor
            if actions.shape[1] != self.action_width:
                raise ValueError(
                    f"the actions have {actions.shape[1]} values and the embedder takes {self.action_width}"
                )
            values = torch.cat((actions, time[:, None]), 1).to(weight.dtype)
        inserted = {TokenType.ACTION: self.outer(nn.functional.gelu(self.inner(values)))}
        runtime = runtime or Runtime()
        return super().forward(batch, visual_tokens, replace(runtime, inserted={**runtime.inserted, **inserted}))


class VelocityHead(Head):
    """A linear map from hidden states to velocities of actions.

    Args:
        in_features: Width of the hidden states.
        vocab_size: Not used; each head gets it.
        action_width: Values of an action.
    """

    in_features: int

    def __init__(self, in_features: int, vocab_size: int, action_width: int = 2) -> None:
        super().__init__()
        self.in_features, self.action_width = in_features, action_width
        self.linear = nn.Linear(in_features, action_width)
        self.init_weights()

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        """Computes `[T, action_width]`, of which only the rows of ACTION positions have a meaning."""
        velocities: Tensor = self.linear(state.hidden)
        return velocities

    def flops(self, batch: PackedBatch) -> float:
        """Counts the matrix at all positions."""
        return 2.0 * batch.num_tokens * self.linear.weight.numel()

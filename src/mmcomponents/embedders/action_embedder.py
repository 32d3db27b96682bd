"""Embedders of policies: external text, images, a noise level and noisy actions, without an embedding weight.

text (EXTERNAL) ── TextEncoder ──► features, projected if their width is another
images ──────────────────────────► visual tokens
noise level (TIME) ──────────────► sinusoidal embedding
noisy actions (ACTION) ──────────► padded with zeros, or mapped

Reference code: RoboDita/Dita.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mmcomponents.batch import PackedBatch, TokenType
from mmcomponents.component import WiringError
from mmcomponents.embedders.base import Embedder
from mmcomponents.embedders.text_encoder import TextEncoder
from mmcomponents.limits import MAX_ROWS, check_sizes
from mmcomponents.nn.nf4_linear import linear_weights
from mmcomponents.nn.runtime import Runtime
from mmcomponents.nn.sine_positions import time_embedding


class ActionEmbedder(Embedder):
    """Embedder of Dita (arXiv 2503.19757, section 3.2): an action of k values is padded with zeros to the width.

    `Runtime.inserted` has the noise levels of the positions of type TIME, `[n]`, and the noisy actions of those of type
    ACTION, `[A, k]`. Positions for which nothing is given are zeros, as for heads that denoise outside of the sequence.

    Args:
        vocab_size: Vocabulary size of the tokenizer; there is no weight of that size.
        hidden_size: Width, d.
        text: Factory of the encoder of texts.
        action_width: Number of values of an action, k.

    Raises:
        WiringError: An action has more values than the width.
    """

    weight_methods = ("external",)

    def __init__(
        self, vocab_size: int, hidden_size: int, text: Callable[[], TextEncoder], action_width: int = 7
    ) -> None:
        super().__init__()
        check_sizes(MAX_ROWS, vocab_size=vocab_size)
        check_sizes(hidden_size=hidden_size, action_width=action_width)
        if action_width > hidden_size:
            raise WiringError(f"actions of {action_width} values do not fit a width of {hidden_size}")
        self.vocab_size, self.hidden_size, self.action_width = vocab_size, hidden_size, action_width
        self.text = text()
        self.context_width = self.text.width
        self.text_proj: nn.Module = nn.Identity()
        if self.text.width != hidden_size:
            self.text_proj = nn.Linear(self.text.width, hidden_size)
        self.init_weights()

    def embedding_weight(self) -> None:
        """Returns None: texts come from outside."""
        return

    def external(self, batch: PackedBatch) -> Tensor:
        """Encodes the external texts of a pack, `[E, context_width]`."""
        mask = batch.layout.token_type == TokenType.EXTERNAL
        counts = torch.bincount(batch.layout.segment_of_token()[mask], minlength=batch.num_segments)
        lengths = [count for count in counts.tolist() if count]
        if not lengths:
            return torch.zeros(0, self.text.width, device=mask.device, dtype=self._weight_dtype())
        features: Tensor = self.text(batch.input_ids[mask], lengths)
        return features

    def flops(self, batch: PackedBatch) -> float:
        """Counts the text encoder and the map of its features."""
        count = int((batch.layout.token_type == TokenType.EXTERNAL).sum())
        return self.text.flops(batch) + 2.0 * count * linear_weights(self.text_proj)

    def embed_actions(self, values: Tensor) -> Tensor:
        """Embeds noisy actions, `[A, k]` to `[A, d]`."""
        return pad(values, (0, self.hidden_size - self.action_width))

    def _weight_dtype(self) -> torch.dtype:
        """Returns the type of the weights, those of the text encoder included; without weights the default one."""
        tensors = (tensor.dtype for tensor in (*self.parameters(), *self.buffers()) if tensor.is_floating_point())
        return next(tensors, torch.get_default_dtype())

    def forward(self, batch: PackedBatch, visual_tokens: Tensor | None, runtime: Runtime | None = None) -> Tensor:
        """Embeds a pack as `[T, d]`.

        Raises:
            ValueError: There is not one noise level for each position of type TIME, or not one action of k values for
                each of type ACTION.
        """
        given = runtime.inserted if runtime else {}
        kinds, index = batch.layout.token_type, batch.visual_index
        texts = given.get(TokenType.EXTERNAL)
        texts = self.external(batch) if texts is None else texts
        dtype = self._weight_dtype() if visual_tokens is None else visual_tokens.dtype
        x = torch.zeros(batch.num_tokens, self.hidden_size, dtype=dtype, device=kinds.device)
        if visual_tokens is not None:
            x = torch.where((index >= 0)[:, None], visual_tokens[index.clamp(min=0)], x)
        x = _placed(x, kinds == TokenType.EXTERNAL, self.text_proj(texts.to(dtype)), "text features")
        is_action = kinds == TokenType.ACTION
        actions = given.get(TokenType.ACTION)
        if actions is None:
            actions = torch.zeros(int(is_action.sum()), self.action_width, device=kinds.device)
        if actions.shape[1:] != (self.action_width,):
            raise ValueError(f"actions have {list(actions.shape[1:])} values, action_width is {self.action_width}")
        x = _placed(x, is_action, self.embed_actions(actions.to(dtype)), "actions")
        levels = given.get(TokenType.TIME)
        if levels is not None:
            x = _placed(x, kinds == TokenType.TIME, time_embedding(levels, self.hidden_size), "noise levels")
        return x


class LinearActionEmbedder(ActionEmbedder):
    """As `ActionEmbedder`, with a learned map of actions to the width, as an option of Dita's released code has it.

    A few values among many zeros are a small part of a token, which a norm makes smaller still.

    Args:
        vocab_size: See `ActionEmbedder`.
        hidden_size: See `ActionEmbedder`.
        text: See `ActionEmbedder`.
        action_width: See `ActionEmbedder`.
    """

    def __init__(
        self, vocab_size: int, hidden_size: int, text: Callable[[], TextEncoder], action_width: int = 7
    ) -> None:
        super().__init__(vocab_size, hidden_size, text, action_width)
        self.action_proj = nn.Linear(action_width, hidden_size, bias=False)
        self.init_weights()

    def embed_actions(self, values: Tensor) -> Tensor:
        """Embeds noisy actions, `[A, k]` to `[A, d]`."""
        found: Tensor = self.action_proj(values)
        return found


def _placed(x: Tensor, where: Tensor, given: Tensor, what: str) -> Tensor:
    """Returns x with a row of `given` at each place, in order."""
    if int(where.sum()) != given.shape[0]:
        raise ValueError(f"{given.shape[0]} {what} for {int(where.sum())} positions of their type")
    return x.masked_scatter(where[:, None], given.to(x.dtype))

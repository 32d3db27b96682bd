"""Inputs of a call of the model besides the batch."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from mmcomponents.batch import TokenType
from mmcomponents.nn.cache import KVCache


@dataclass
class Runtime:
    """Inputs that a sampler or an objective adds to one call of the model.

    Attributes:
        cache: Keys and values of earlier calls; extended during the call.
        visual_tokens: `[R, d]` visual tokens encoded earlier; the encoder is skipped.
        inserted: `{type: [n, d]}` embeddings placed at the positions of a token type, in order.
    """

    cache: KVCache | None = None
    visual_tokens: Tensor | None = None
    inserted: dict[TokenType, Tensor] = field(default_factory=dict)

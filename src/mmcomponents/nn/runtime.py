"""Inputs of a call of the model besides the batch."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from mmcomponents.batch import TokenType
from mmcomponents.nn.cache import KVCache

_ORDER = ("visual", "visual_tokens", "embeds", "hidden")
"""Fields of the model's state in the order in which they are computed."""


@dataclass
class Runtime:
    """Inputs that a sampler or an objective adds to one call of the model.

    Attributes:
        cache: Keys and values of earlier calls; extended during the call.
        visual_tokens: `[R, d]` visual tokens encoded earlier; the encoder is skipped.
        needs: Fields of the model's state that are read, such as ("visual_tokens",); the model stops when it has them.
            Empty: all.
        inserted: `{type: [n, d]}` embeddings placed at the positions of a token type, in order.
    """

    cache: KVCache | None = None
    visual_tokens: Tensor | None = None
    needs: tuple[str, ...] = ()
    inserted: dict[TokenType, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := [need for need in self.needs if need not in _ORDER]:
            raise ValueError(f"the model's state has no {unknown[0]!r}, only {', '.join(_ORDER)}")

    def reaches(self, name: str) -> bool:
        """Returns whether the model computes a field of its state."""
        return not self.needs or any(_ORDER.index(need) >= _ORDER.index(name) for need in self.needs)

"""Rotary positions of a transformers model: its own, or given tables."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class RotaryTables(nn.Module):
    """Replaces the `rotary_emb` module of a body and returns the tables of the current call.

    The body's own module is stored on the CPU outside the module tree, so that casts, sharding and `to_empty` do not
    change its frequencies; it is used for calls without tables. On construction, its tables for a few positions
    determine their layout, and whether tables of a position component are equivalent.

    Args:
        own: The body's module; rebuilt from its configuration.
        name: Name of the body, for messages.
    """

    def __init__(self, own: nn.Module, name: str) -> None:
        super().__init__()
        config: Any = own.config
        with torch.device("cpu"):
            self._own = (type(own)(config),)  # in a tuple, so that it is not registered as a submodule
        self._name = name
        self._given: tuple[Tensor, Tensor] | None = None
        self.width: int | None = None
        """Width of the tables; None if unknown."""
        self._interleaved = False
        self.refusal = self._probe(getattr(config, "rope_parameters", None) or {})
        """Reason why tables of a position component are not equivalent for this body; None if they are."""

    @contextmanager
    def given(self, cos: Tensor, sin: Tensor) -> Iterator[None]:
        """Uses these tables within the block.

        Args:
            cos: `[S, L, D]` cosines, with equal halves of the last axis.
            sin: `[S, L, D]` sines likewise.
        """
        self._given = (cos, sin)
        try:
            yield
        finally:
            self._given = None

    def check_length(self, longest: int) -> None:
        """Checks that the body's own frequencies do not depend on the longest segment of a batch.

        Raises:
            ValueError: They do, so that a segment would depend on the other segments of its pack.
        """
        own: Any = self._own[0]
        limit = getattr(own, "original_max_seq_len", None)
        if str(getattr(own, "rope_type", "")) in ("dynamic", "longrope") and limit is not None and longest > limit:
            raise ValueError(
                f"a segment has {longest} positions and {self._name} rescales its rotary positions beyond {limit}, "
                "for the batch as one: put RoPE with an ntk_factor into the position slot, or shorten the segment"
            )

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Returns cosine and sine in the dtype of `x`, as transformers passes them to its layers.

        Args:
            x: `[S, L, d]` input of the layers.
            args: Arguments of the body's own module, such as its position ids.
            kwargs: Likewise.

        Returns:
            `[S, L, D]` each.
        """
        if self._given is None:
            own = copy.deepcopy(self._own[0]) if x.is_meta else self._own[0]  # a move to meta loses the values
            return own.to(x.device)(x, *args, **kwargs)
        return tuple(self._arrange(table).to(x.dtype) for table in self._given)

    def _arrange(self, table: Tensor) -> Tensor:
        if not self._interleaved:
            return table
        return table[..., : table.shape[-1] // 2].repeat_interleave(2, dim=-1)

    @torch.no_grad()
    def _probe(self, parameters: dict[str, Any]) -> str | None:
        """Returns the reason why tables of a position component are not equivalent; None if they are."""
        if any(isinstance(value, dict) for value in parameters.values()):
            return "has a rotary embedding for each kind of layer"
        positions = torch.arange(5, device="cpu")
        tables = self._own[0](torch.zeros(1, 5, 1, dtype=torch.float32, device="cpu"), positions[None])
        pair = isinstance(tables, tuple) and len(tables) == 2 and all(isinstance(t, Tensor) for t in tables)
        theta = parameters.get("rope_theta")
        if not pair or tables[0].ndim != 3 or theta is None:
            return "has rotary positions of an unsupported form"
        self.width = width = int(tables[0].shape[-1])
        steps = torch.arange(0, width, 2, dtype=torch.float32, device="cpu") / width  # independent of the default dtype
        angles = positions[:, None] * float(theta) ** -steps
        for self._interleaved in (False, True):
            plain = self._arrange(torch.cat((angles, angles), dim=-1))
            if torch.allclose(tables[0][0], plain.cos(), atol=1e-4) and torch.allclose(
                tables[1][0], plain.sin(), atol=1e-4
            ):
                return None
        return f"scales its rotary positions (rope_type {parameters.get('rope_type')!r}), which is not supported"

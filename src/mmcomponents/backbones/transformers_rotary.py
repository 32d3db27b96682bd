"""The rotary positions of a transformers model: its own, or tables that it is given."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class RotaryTables(nn.Module):
    """Takes the place of a body's `rotary_emb` and hands out the tables of the call that is under way.

    The body's own module is kept on the CPU outside the tree of modules, so that no cast, no sharding and no `to_empty`
    reaches its frequencies; it answers where a call brings no tables. On construction it is asked for a few positions:
    what it says tells how its tables are laid out, and whether ours mean the same to the layers.

    Args:
        own: The body's module; rebuilt from its configuration.
        name: Name of the body, for messages.
    """

    def __init__(self, own: nn.Module, name: str) -> None:
        super().__init__()
        config: Any = own.config
        with torch.device("cpu"):
            self._own = (type(own)(config),)  # a tuple: nothing registered
        self._name = name
        self._given: tuple[Tensor, Tensor] | None = None
        self.width: int | None = None
        """Width of the tables; None where it cannot be told."""
        self._interleaved = False
        self.refusal = self._probe(getattr(config, "rope_parameters", None) or {})
        """Why tables of ours would mean something else to this body; None: they would not."""

    @contextmanager
    def given(self, cos: Tensor, sin: Tensor) -> Iterator[None]:
        """Hands out these tables `[S, L, D]`, halves alike, within the block."""
        self._given = (cos, sin)
        try:
            yield
        finally:
            self._given = None

    def check_length(self, longest: int) -> None:
        """Refuses its own frequencies where they would follow the longest segment of a batch.

        Raises:
            ValueError: Such frequencies would make a segment depend on what shares its pack.
        """
        own: Any = self._own[0]
        limit = getattr(own, "original_max_seq_len", None)
        if str(getattr(own, "rope_type", "")) in ("dynamic", "longrope") and limit is not None and longest > limit:
            raise ValueError(
                f"a segment has {longest} positions and {self._name} rescales its rotary positions past {limit}, "
                "for a whole batch at once: put RoPE with an ntk_factor into the position slot, or cut the segment"
            )

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Cosine and sine in the type of `x`, as transformers hands them to its layers."""
        if self._given is None:
            own = copy.deepcopy(self._own[0]) if x.is_meta else self._own[0]  # a move to meta loses the numbers
            return own.to(x.device)(x, *args, **kwargs)
        return tuple(self._laid_out(table).to(x.dtype) for table in self._given)

    def _laid_out(self, table: Tensor) -> Tensor:
        if not self._interleaved:
            return table
        return table[..., : table.shape[-1] // 2].repeat_interleave(2, dim=-1)

    @torch.no_grad()
    def _probe(self, parameters: dict[str, Any]) -> str | None:
        """Why tables of ours would not do; None where they do."""
        if any(isinstance(value, dict) for value in parameters.values()):
            return "has a rotary embedding for each kind of layer"
        positions = torch.arange(5, device="cpu")
        tables = self._own[0](torch.zeros(1, 5, 1, dtype=torch.float32, device="cpu"), positions[None])
        pair = isinstance(tables, tuple) and len(tables) == 2 and all(isinstance(t, Tensor) for t in tables)
        theta = parameters.get("rope_theta")
        if not pair or tables[0].ndim != 3 or theta is None:
            return "makes rotary positions of a form of its own"
        self.width = width = int(tables[0].shape[-1])
        steps = torch.arange(0, width, 2, dtype=torch.float32, device="cpu") / width  # whatever the default type
        angles = positions[:, None] * float(theta) ** -steps
        for self._interleaved in (False, True):
            plain = self._laid_out(torch.cat((angles, angles), dim=-1))
            if torch.allclose(tables[0][0], plain.cos(), atol=1e-4) and torch.allclose(
                tables[1][0], plain.sin(), atol=1e-4
            ):
                return None
        return f"scales its rotary positions (rope_type {parameters.get('rope_type')!r}), which no table of ours does"

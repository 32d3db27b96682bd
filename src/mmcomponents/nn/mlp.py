"""Feed-forward blocks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu, silu

from mmcomponents.nn.linear import Linear
from mmcomponents.nn.recompute import recomputed_input


class SwiGLU(nn.Module):
    """Gated feed-forward block (Shazeer 2020): `down(silu(gate(x)) * up(x))`, without biases.

    Args:
        hidden_size: Input and output width.
        intermediate_size: Inner width.
    """

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[..., d]` to `[..., d]`. Keeps the results of gate and up, and not their product."""
        return recomputed_input(self.down_proj, _gated, self.gate_proj(x), self.up_proj(x))


class MLP(nn.Module):
    """Two linear maps with biases and an exact (erf) GELU between them.

    Args:
        hidden_size: Input and output width.
        intermediate_size: Inner width.
    """

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.fc1 = Linear(hidden_size, intermediate_size)
        self.fc2 = Linear(intermediate_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[..., d]` to `[..., d]`. Keeps the result of the first map, and not that of the GELU."""
        return recomputed_input(self.fc2, gelu, self.fc1(x))


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return silu(gate) * up

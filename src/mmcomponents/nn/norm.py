"""Root mean square norm that keeps its input."""

from __future__ import annotations

from torch import Tensor, nn

from mmcomponents.nn.recompute import recomputed


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` (arXiv 1910.07467) that keeps its input in its own dtype for the backward pass.

    torch's kernel for CUDA does that; elsewhere torch keeps several fp32 tensors of the size of the input.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalises over the last dimension, `[..., d]` to `[..., d]`."""
        return super().forward(x) if x.is_cuda else recomputed(self._norm, x, self.weight)

    def _norm(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return nn.functional.rms_norm(x, self.normalized_shape, weight, self.eps)

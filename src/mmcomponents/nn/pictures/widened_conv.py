"""Convolution with further input channels that starts as one without them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d


class WidenedConv(nn.Conv2d):
    """Convolution whose input has `more` further channels with a weight of their own, which is zero at the start.

    The weight of the first channels keeps name and shape of the convolution that is widened, so that its weights load
    as they are. InstructPix2Pix (arXiv 2211.09800, section 3.2) widens the first convolution of a denoiser in this way.

    Args:
        channels: Input channels of the convolution that is widened.
        more: Further input channels.
        width: Output channels.
        kernel: Side of the kernel, odd; the output has the size of the input.
    """

    def __init__(self, channels: int, more: int, width: int, kernel: int = 3) -> None:
        super().__init__(channels, width, kernel, padding=kernel // 2)
        self.added = nn.Parameter(torch.zeros(width, more, kernel, kernel))

    def forward(self, input: Tensor) -> Tensor:
        """Maps `[N, channels + more, H, W]` to `[N, width, H, W]`."""
        known, further = input.split((self.in_channels, self.added.shape[1]), dim=1)
        return super().forward(known) + conv2d(further, self.added, padding=self.padding)

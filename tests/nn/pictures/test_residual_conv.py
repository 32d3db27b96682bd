"""Residual block of convolutions."""

from __future__ import annotations

import torch

from mmcomponents.nn.pictures import ResidualConv


def test_the_input_is_added_and_pictures_do_not_mix() -> None:
    block, x = ResidualConv(16), torch.randn(2, 16, 5, 5)
    together = block(x)
    torch.testing.assert_close(together[:1], block(x[:1]))
    block.conv2.weight.data.zero_()
    block.conv2.bias.data.zero_()
    assert torch.equal(block(x), x)

"""Convolution with further input channels."""

from __future__ import annotations

import torch
from torch import nn

from mmcomponents.nn.pictures import WidenedConv


def test_at_the_start_it_is_the_convolution_that_it_widens() -> None:
    plain, wide = nn.Conv2d(4, 6, 3, padding=1), WidenedConv(4, 8, 6)
    assert wide.load_state_dict(plain.state_dict(), strict=False).missing_keys == ["added"]
    x = torch.randn(2, 12, 5, 5)
    assert torch.equal(wide(x), plain(x[:, :4]))
    wide.added.data.normal_()
    whole = torch.cat((plain.weight, wide.added), dim=1)
    torch.testing.assert_close(wide(x), nn.functional.conv2d(x, whole, plain.bias, padding=1))

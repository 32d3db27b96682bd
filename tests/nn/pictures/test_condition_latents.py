"""Latents of pictures and layouts."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcomponents.nn.pictures import encode_conditions


class Halves:
    """Encodes pictures as halves of their pixels, and counts the calls."""

    picture_size = 4

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def encode(self, pictures: Tensor) -> Tensor:
        self.sizes.append(len(pictures))
        return pictures / 2


def test_one_call_encodes_targets_references_and_the_mean_of_canvases() -> None:
    coder = Halves()
    targets = torch.rand(3, 3, 4, 4)
    references = torch.full((3, 3, 4, 4), -1.0)
    references[1] = 0.5
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0]])
    found = encode_conditions(coder, targets, references, boxes, torch.ones(2, 3), torch.tensor([2, 2]))
    assert coder.sizes == [3 + 1 + 2 + 1]
    torch.testing.assert_close(found.targets, targets / 2)
    torch.testing.assert_close(found.references, references / 2)
    assert torch.equal(found.layouts[:2], torch.full((2, 3, 4, 4), -0.5))
    assert torch.equal(found.layouts[2, :, :, :2], torch.full((3, 4, 2), 0.5))
    assert torch.equal(found.layouts[2, :, :, 2:], torch.zeros(3, 4, 2))

from __future__ import annotations

import pytest
import torch

from mmcomponents.nn.attention.sdpa import sdpa_attention
from mmcomponents.nn.attention.segments import Segments
from mmcomponents.nn.attention.traceable import packed_attention, traceable_attention


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lengths", [[5, 2, 9], [4, 4, 4], [16], [3, 0, 2]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_sdpa_attention_bit_for_bit(dtype: torch.dtype, lengths: list[int], causal: bool) -> None:
    torch.manual_seed(0)
    total = sum(lengths)
    segments = Segments(torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32), max(lengths))
    q, k, v = (torch.randn(total, heads, 8, dtype=dtype, requires_grad=True) for heads in (4, 2, 2))
    weights = torch.randn(total, 4, 8, dtype=dtype)
    found = []
    for attend in (traceable_attention, sdpa_attention):
        out = attend(q, k, v, segments, causal=causal)
        found.append([out, *torch.autograd.grad((out * weights).sum(), (q, k, v))])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_the_operation_is_a_proper_one() -> None:
    q, k, v = (torch.randn(7, heads, 8, requires_grad=True) for heads in (4, 2, 2))
    cu_seqlens = torch.tensor([0, 3, 7], dtype=torch.int32)
    torch.library.opcheck(packed_attention, (q, k, v, cu_seqlens, True))

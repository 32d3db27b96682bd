import logging

import pytest
import torch
from torch import Tensor

from mmcomponents.nn.attention import BACKENDS, Segments, attention, cached_attention, choose_backend

LENGTHS = [[5, 1, 12, 3], [6, 6, 6], [9]]


def naive(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], causal: bool) -> Tensor:
    """Computes one masked softmax over the pack, in fp64."""
    groups = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(groups, 1), v.double().repeat_interleave(groups, 1)
    segment = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(q.device)
    seen = segment[:, None] == segment[None]
    if causal:
        seen &= torch.ones_like(seen).tril()
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


def draw(lengths: list[int], heads: int, kv_heads: int, width: int = 8) -> tuple[list[Tensor], Segments]:
    total = sum(lengths)
    qkv = [torch.randn(total, h, width, requires_grad=True) for h in (heads, kv_heads, kv_heads)]
    boundaries = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    return qkv, Segments(boundaries, max(lengths))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_sdpa_agrees_with_a_masked_softmax(lengths, heads, causal) -> None:
    qkv, segments = draw(lengths, *heads)
    out = attention(*qkv, segments, causal=causal, backend="sdpa")
    expected = naive(*qkv, lengths, causal)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(out)
    found = torch.autograd.grad((out * weights).sum(), qkv)
    wanted = torch.autograd.grad((expected * weights).sum(), qkv)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_break_causal_and_full_differ() -> None:
    qkv, segments = draw([5, 1, 12, 3], 4, 2)
    causal, full = (attention(*qkv, segments, causal=c) for c in (True, False))
    assert (causal - full).abs().max() > 1e-2


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("backend", list(BACKENDS))
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_every_backend_agrees_on_a_gpu(lengths, heads, causal, backend, dtype) -> None:
    if choose_backend(backend, "cuda", dtype, 64) != backend:
        pytest.skip(f"{backend} does not take {dtype} here")
    qkv, segments = draw(lengths, *heads, width=64)
    there = [x.detach().to("cuda", dtype).requires_grad_() for x in qkv]
    on_gpu = Segments(segments.cu_seqlens.cuda(), segments.max_seqlen)
    out = attention(*there, on_gpu, causal=causal, backend=backend)
    exact = [x.detach().requires_grad_() for x in there]
    expected = naive(*exact, lengths, causal)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    found = torch.autograd.grad(out.float().sum(), there)
    wanted = torch.autograd.grad(expected.sum(), exact)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=3 * tolerance, atol=3 * tolerance)


def test_a_backend_that_does_not_run_here_falls_back_with_one_line(caplog) -> None:
    choose_backend.cache_clear()
    with caplog.at_level(logging.WARNING):
        names = [choose_backend("xformers", "cpu", torch.float32, 8) for _ in range(3)]
    assert names == ["sdpa"] * 3
    assert [r.message for r in caplog.records] == [
        "attention runs on sdpa: xformers has no cpu kernel; varlen has no cpu kernel"
    ]


def test_auto_on_cpu_says_nothing(caplog) -> None:
    choose_backend.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert choose_backend("auto", "cpu", torch.float32, 8) == "sdpa"
    assert not caplog.records


def test_wrong_input_is_refused() -> None:
    qkv, segments = draw([4], 4, 3)
    with pytest.raises(ValueError, match="4 query heads are not a multiple of 3"):
        attention(*qkv, segments, causal=True)
    with pytest.raises(ValueError, match="unknown attention backend 'flash'"):
        choose_backend("flash", "cpu", torch.float32, 8)


@pytest.mark.parametrize("new", [[1, 1, 1], [2, 1, 3]])
def test_cached_attention_agrees_with_the_whole(new) -> None:
    lengths = [5, 1, 9]
    (q, k, v), _ = draw(lengths, 4, 2)
    new = [min(a, b) for a, b in zip(new, lengths, strict=True)]
    full = naive(q, k, v, lengths, causal=True)
    blocks = [torch.nn.utils.rnn.pad_sequence(x.split(lengths), batch_first=True).transpose(1, 2) for x in (k, v)]
    last = torch.cat([torch.arange(e - n, e) for n, e in zip(new, torch.tensor(lengths).cumsum(0), strict=True)])
    segments = Segments(torch.tensor([0, *torch.tensor(new).cumsum(0)], dtype=torch.int32), max(new))
    out = cached_attention(q[last], *blocks, segments, lengths)
    torch.testing.assert_close(out.double(), full[last], rtol=1e-5, atol=1e-5)


def test_uniform_segments_know_their_lengths() -> None:
    segments = Segments.uniform(3, 5, torch.device("cpu"))
    assert segments.cu_seqlens.tolist() == [0, 5, 10, 15]
    assert segments.lengths == [5, 5, 5]
    assert segments.is_uniform

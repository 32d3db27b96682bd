from __future__ import annotations

import pytest
import torch

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.rules import Grouped, Lazy, Rule, Thirds, lazy, rename, to_ours, to_theirs

RULES = [
    Rule(("old.{n}.q.{p}", "old.{n}.k.{p}", "old.{n}.v.{p}"), ("new.{n}.qkv.{p}",), Thirds()),
    rename("head", "tail"),
    rename("old.{rest}", "new.{rest}"),
]


def _state(*names: str) -> dict[str, Lazy]:
    return {name: lazy(torch.full((2, 3), float(i))) for i, name in enumerate(names)}


def test_names_and_tensors_go_there_and_back() -> None:
    state = _state("old.0.v.weight", "head", "old.0.q.weight", "old.norm.weight", "old.0.k.weight")
    ours = to_ours(state, RULES)
    assert set(ours) == {"new.0.qkv.weight", "tail", "new.norm.weight"}
    assert ours["new.0.qkv.weight"].load()[:, 0].tolist() == [2, 2, 4, 4, 0, 0]
    assert ours["new.0.qkv.weight"].meta.shape == (6, 3)
    back = to_theirs(ours, RULES)
    assert set(back) == set(state)
    assert all(torch.equal(back[name].load(), state[name].load()) for name in state)


def test_nothing_is_read_before_it_is_wanted() -> None:
    def fail() -> torch.Tensor:
        raise AssertionError("read too early")

    state = {
        name: Lazy(torch.empty(2, 3, device="meta"), fail) for name in ("old.0.q.bias", "old.0.k.bias", "old.0.v.bias")
    }
    with pytest.raises(AssertionError, match="too early"):
        to_ours(state, RULES)["new.0.qkv.bias"].load()


def test_unknown_and_missing_names_are_errors() -> None:
    with pytest.raises(CheckpointError, match=r"has old.0.q.weight and lacks old.0.k.weight, old.0.v.weight"):
        to_ours(_state("old.0.q.weight"), RULES)
    with pytest.raises(CheckpointError, match="unknown names: a, b, c, d and 1 more"):
        to_ours(_state("a", "b", "c", "d", "e", "head"), RULES)
    assert to_ours(_state("a.inv_freq", "head"), RULES, [r".*inv_freq"]).keys() == {"tail"}


def test_grouped_queries_are_taken_apart_by_key_head() -> None:
    """Row (g * (q + 2) + j) * d + i of `wqkv` is row i of query j of group g, of its key for j = q, then its value."""
    heads, kv_heads, width = 6, 2, 4
    queries = heads // kv_heads
    wqkv = torch.randn((heads + 2 * kv_heads) * width, 5)
    q, k, v = Grouped(heads, kv_heads, width).to_ours([wqkv])
    for group in range(kv_heads):
        start = group * (queries + 2) * width
        for j in range(queries):
            head = group * queries + j
            expected = wqkv[start + j * width : start + (j + 1) * width]
            assert torch.equal(q[head * width : (head + 1) * width], expected)
        rows = slice(group * width, (group + 1) * width)
        assert torch.equal(k[rows], wqkv[start + queries * width :][:width])
        assert torch.equal(v[rows], wqkv[start + (queries + 1) * width :][:width])
    (again,) = Grouped(heads, kv_heads, width).to_theirs([q, k, v])
    assert torch.equal(again, wqkv)


def test_a_shape_that_does_not_divide_is_an_error() -> None:
    rule = Rule(("wqkv",), ("q", "k", "v"), Grouped(4, 2, 8))
    with pytest.raises(CheckpointError, match="shapes"):
        to_ours({"wqkv": lazy(torch.ones(60, 3))}, [rule])

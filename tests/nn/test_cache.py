"""The cache holds every key and value at its place, however it grows."""

from __future__ import annotations

import pytest
import torch

from mmcomponents.batch import Layout
from mmcomponents.nn.cache import KVCache


def layout(*lengths: int) -> Layout:
    ends = torch.tensor([0, *lengths]).cumsum(0)
    total = int(ends[-1])
    none = torch.full((total,), -1)
    return Layout(torch.zeros(total, dtype=torch.long), ends.int(), max(lengths), none, torch.zeros(0, 3).long())


@pytest.mark.parametrize("prompts", [(3,), (5, 2, 8)])
def test_growth_keeps_what_is_cached(prompts: tuple[int, ...]) -> None:
    """One position at a time over several growths, so that each happens when the block is full."""
    cache, given = KVCache(), [list[tuple[torch.Tensor, torch.Tensor]]() for _ in prompts]
    for step in range(280):
        new = prompts if step == 0 else (1,) * len(prompts)
        k, v = torch.randn(sum(new), 2, 3), torch.randn(sum(new), 2, 5)
        cache.begin(layout(*new))
        blocks = cache.extend("layer", k, v)
        cache.commit()
        for own, ks, vs in zip(given, k.split(new), v.split(new), strict=True):
            own.append((ks, vs))
    assert cache.lengths == [length + 279 for length in prompts]
    for number, own in enumerate(given):
        for block, pieces in zip(blocks, zip(*own, strict=True), strict=True):
            assert torch.equal(block[number, :, : cache.lengths[number]], torch.cat(pieces).transpose(0, 1))


def test_the_number_of_segments_is_fixed() -> None:
    cache = KVCache()
    cache.begin(layout(2, 3))
    cache.commit()
    with pytest.raises(ValueError, match="the cache holds 2 segments and the pack has 1"):
        cache.begin(layout(1))


def test_a_fork_shares_nothing_with_the_cache_that_it_was_made_of() -> None:
    cache = KVCache()
    cache.begin(layout(3, 2))
    first = torch.randn(5, 2, 4)
    cache.extend("layer", first, first)
    cache.commit()
    before = [block.clone() for block in cache._state.blocks["layer"]]
    fork = cache.fork()
    for continued in (fork, cache.fork()):
        continued.begin(layout(2, 1))
        more = torch.randn(3, 2, 4)
        k, _ = continued.extend("layer", more, more)
        continued.commit()
        assert continued.lengths == [5, 3]
        assert torch.equal(k[0, :, :5], torch.cat((first[:3], more[:2])).transpose(0, 1))
        assert torch.equal(k[1, :, :3], torch.cat((first[3:], more[2:])).transpose(0, 1))
    fork.select([1])
    assert cache.lengths == [3, 2]
    assert all(torch.equal(now, then) for now, then in zip(cache._state.blocks["layer"], before, strict=True))
    assert KVCache().fork().is_empty


def test_a_view_has_layers_of_its_own_at_the_same_positions() -> None:
    cache = KVCache()
    cache.begin(layout(3, 2))
    one, two = torch.randn(2, 5, 2, 4)
    cache.extend("layer", one, one)
    k, _ = cache.view("embedder.").extend("layer", two, two)
    assert torch.equal(k[0, :, :3], two[:3].transpose(0, 1))
    with pytest.raises(ValueError, match="two layers extend 'layer' of the cache in one call"):
        cache.extend("layer", two, two)
    with pytest.raises(ValueError, match=r"two layers extend 'embedder\.layer' of the cache"):
        cache.view("embedder.").extend("layer", two, two)
    cache.commit()
    view = cache.view("embedder.")
    assert view.lengths == [3, 2]
    cache.begin(layout(1, 1))
    assert view.next_lengths == [4, 3]
    k, _ = view.extend("layer", one[:2], one[:2])
    assert torch.equal(k[0, :, :4], torch.cat((two[:3], one[:1])).transpose(0, 1))


def test_an_inner_cache_counts_positions_of_its_own() -> None:
    cache = KVCache()
    cache.begin(layout(3, 2))
    inner = cache.inner("embedder")
    inner.begin(layout(9, 2))
    first = torch.randn(11, 2, 4)
    inner.extend("layer", first, first)
    inner.keep_ticks(torch.tensor([8, 1]))
    assert (inner.last_ticks, inner.is_empty) == (None, True)  # until the model has run
    cache.commit()
    assert (cache.lengths, inner.lengths, inner.last_ticks.tolist()) == ([3, 2], [9, 2], [8, 1])
    assert cache.inner("embedder") is inner
    assert KVCache().view("other.").inner("embedder") is not inner
    fork = cache.fork()
    fork.select([1])
    other = fork.inner("embedder")
    assert (fork.lengths, other.lengths, other.last_ticks.tolist()) == ([2], [2], [1])
    other.begin(layout(1))
    k, _ = other.extend("layer", torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    fork.commit()
    assert torch.equal(k[0, :, :3], torch.cat((first[9:], torch.ones(1, 2, 4))).transpose(0, 1))
    assert (cache.lengths, inner.lengths, inner.last_ticks.tolist()) == ([3, 2], [9, 2], [8, 1])


def test_a_cache_with_inner_caches_is_not_shortened() -> None:
    cache = KVCache()
    cache.lengths = [5]
    cache.lengths = [4]
    cache.inner("embedder")
    cache.lengths = [4]
    with pytest.raises(ValueError, match="a cache with inner caches cannot be shortened"):
        cache.lengths = [3]

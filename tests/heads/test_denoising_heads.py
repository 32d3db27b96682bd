"""Heads that estimate noise, within the sequence and outside of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcomponents.batch import TokenType
from mmcomponents.component import WiringError
from mmcomponents.heads import CosineNoise, DenoisingHead, PooledDenoisingHead, TokenDenoisingHead
from policy import packed, statistics

SCHEDULE = partial(CosineNoise, 20)


def made(kind: Any, folder: Path, **arguments: Any) -> Any:
    head = kind(32, None, statistics(folder), SCHEDULE, 2, **arguments)
    head.init_weights(0)
    return head


def inputs(count: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count, 32, generator=draw), torch.randn(count, 2, generator=draw), torch.arange(count) % 20


def test_in_context_noise_is_a_map_of_the_hidden_state_alone(tmp_path: Path) -> None:
    head = made(DenoisingHead, tmp_path)
    hidden, noisy, level = inputs()
    found = head.noise_of(hidden, noisy, level, packed())
    torch.testing.assert_close(found, hidden @ head.proj.weight.T)
    torch.testing.assert_close(found, head.noise_of(hidden, noisy + 1, level + 1, packed()))


def test_a_token_head_denoises_each_action_on_its_own(tmp_path: Path) -> None:
    head = made(TokenDenoisingHead, tmp_path, num_blocks=2)
    hidden, noisy, level = inputs()
    found = head.noise_of(hidden, noisy, level, packed())
    other = noisy.clone()
    other[3] += 1.0
    changed = (head.noise_of(hidden, other, level, packed()) - found).abs().amax(1) > 1e-6
    assert changed.nonzero()[:, 0].tolist() == [3]
    assert not torch.allclose(head.noise_of(hidden, noisy, level + 1, packed()), found)
    assert not torch.allclose(head.noise_of(hidden + 1, noisy, level, packed()), found)


def test_a_pooled_head_denoises_chunks_as_a_whole(tmp_path: Path) -> None:
    head, batch = made(PooledDenoisingHead, tmp_path, num_blocks=2, horizon=4), packed()
    hidden, noisy, level = inputs()
    level = level // 4
    found = head.noise_of(hidden, noisy, level, batch)
    other = noisy.clone()
    other[5] += 1.0
    changed = (head.noise_of(hidden, other, level, batch) - found).abs().amax(1) > 1e-6
    assert changed.nonzero()[:, 0].tolist() == [4, 5, 6, 7]
    swapped = hidden[[1, 0, *range(2, 12)]]  # only the mean of a chunk counts
    torch.testing.assert_close(head.noise_of(swapped, noisy, level, batch), found)


def test_a_chunk_that_is_not_the_horizon_is_refused(tmp_path: Path) -> None:
    head = made(PooledDenoisingHead, tmp_path, horizon=3)
    with pytest.raises(WiringError, match="has horizon 3, and a segment has 4 actions"):
        head.noise_of(*inputs(), packed())
    with pytest.raises(WiringError, match="17 x 2 noisy values do not fit the width 32"):
        made(PooledDenoisingHead, tmp_path, horizon=17)


def test_flops_are_those_of_the_matrices(tmp_path: Path) -> None:
    batch = packed()
    count = int((batch.layout.token_type == TokenType.ACTION).sum())
    assert made(DenoisingHead, tmp_path).flops(batch) == 2.0 * count * 32 * 2
    blocks = 2 * 4 * 32 * 32
    assert made(TokenDenoisingHead, tmp_path, num_blocks=2).flops(batch) == 2.0 * count * (blocks + 32 * 2)
    pooled = made(PooledDenoisingHead, tmp_path, num_blocks=2, horizon=4)
    assert pooled.flops(batch) == 2.0 * count / 4 * (blocks + 32 * 8)

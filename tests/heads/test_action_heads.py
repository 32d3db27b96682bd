"""Heads that read actions, and their statistics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmcomponents.batch import ModelState
from mmcomponents.companions.action_statistics import StatisticsError
from mmcomponents.heads import ActionHead
from policy import packed, statistics


def test_actions_are_read_at_their_positions_only(tmp_path: Path) -> None:
    head, batch = ActionHead(32, None, statistics(tmp_path), 2), packed()
    hidden = torch.randn(batch.num_tokens, 32, generator=torch.Generator().manual_seed(0))
    found = head(ModelState(hidden=hidden), batch)
    assert found.shape == (12, 2)
    torch.testing.assert_close(found[-1], head.proj.weight @ hidden[-1])


def test_statistics_are_needed_but_on_the_meta_device(tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match=r"there are no action statistics nowhere.json"):
        ActionHead(32, None, "nowhere.json", 2)
    with torch.device("meta"):
        head = ActionHead(32, None, "nowhere.json", 2)
    assert head.statistics_fingerprint is None
    with pytest.raises(StatisticsError, match=r"there are no action statistics"):
        _ = head.ranges
    with pytest.raises(StatisticsError, match=r"has action_width 3, and .* is of actions of 2 values"):
        ActionHead(32, None, statistics(tmp_path), 3)

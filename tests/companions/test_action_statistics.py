"""Statistics of actions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcomponents.companions.action_statistics import ActionStatistics, StatisticsError

MADE = ActionStatistics("a", 3, (-1.0, 2.0, 5.0), (3.0, 4.0, 5.0))


def test_normalised_actions_lie_within_one_and_come_back() -> None:
    values = torch.tensor([[-1.0, 4.0, 5.0], [3.0, 2.0, 5.0], [1.0, 3.0, 5.0]])
    found = MADE.normalised(values)
    assert found.tolist() == [[-1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]
    assert torch.equal(MADE.restored(found), values)


def test_ranges_are_those_of_all_chunks(tmp_path: Path) -> None:
    found = ActionStatistics.of("b", [torch.tensor([[0.0, 1.0]]), torch.tensor([[-2.0, 3.0], [1.0, 2.0]])])
    assert found == ActionStatistics("b", 3, (-2.0, 1.0), (1.0, 3.0))
    found.save(tmp_path / "s.json")
    assert ActionStatistics.read(tmp_path / "s.json") == found
    assert found.fingerprint != ActionStatistics("c", 3, (-2.0, 1.0), (1.0, 3.0)).fingerprint
    assert found.fingerprint != ActionStatistics("b", 3, (-2.0, 1.0), (1.0, 4.0)).fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "has no action statistics"),
        ("{", "is not JSON"),
        ({"low": [1.0]}, "'dataset'|'high'"),
        ({"dataset": "a", "actions": 3, "low": [1.0], "high": [0.0]}, "range 1.0 to 0.0 for number 0"),
        ({"dataset": "a", "actions": 3, "low": [1.0], "high": ["nan"]}, "range 1.0 to nan for number 0"),
        ({"dataset": "", "actions": 3, "low": [1.0], "high": [2.0]}, "name no data set"),
        ({"dataset": "a", "actions": 3, "low": [1.0], "high": [2.0, 3.0]}, "1 low and 2 high"),
    ],
)
def test_damaged_files_are_refused_in_one_line(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    text = content if isinstance(content, str) else json.dumps({"format": "mmcomponents action statistics", **content})
    path.write_text(text)
    with pytest.raises(StatisticsError, match=message) as caught:
        ActionStatistics.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_no_actions_are_told(tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match="there are no action statistics"):
        ActionStatistics.read(tmp_path / "none.json")
    with pytest.raises(StatisticsError, match="the data set a has no actions"):
        ActionStatistics.of("a", [])

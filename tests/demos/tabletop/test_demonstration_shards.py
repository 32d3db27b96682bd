"""Arguments of the data set of demonstrations; `tests/test_policy_run.py` writes one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcomponents.demos.tabletop.demonstration_shards import make_tabletop


@pytest.mark.parametrize("name", ["horizon", "side", "scale", "samples_per_shard"])
def test_arguments_out_of_range_are_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        make_tabletop(str(tmp_path / "out"), **{name: 0})
    assert not (tmp_path / "out").exists()

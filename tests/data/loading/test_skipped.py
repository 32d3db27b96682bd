from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.conftest import png, record
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.loading.skipped import SkippedSamples


def test_more_than_the_share_of_what_was_seen_is_an_error() -> None:
    skipped = SkippedSamples("train", samples=100_000, allowed=0.01)
    skipped.count(50, 10)  # ten of the first thousand
    with pytest.raises(DataError, match=r"11 of 100 samples .* 0.01 of 1000; a: b"):
        skipped.count(50, 1, ["a: b"])
    long = SkippedSamples("train", samples=100_000, allowed=0.01)
    long.count(5000, 50)
    with pytest.raises(DataError, match="51 of 5000"):
        long.count(0, 1)


def test_small_data_are_judged_by_their_size() -> None:
    skipped = SkippedSamples("val", samples=200, allowed=0.01)
    skipped.count(10, 2)
    with pytest.raises(DataError, match="val data: 3 of 20"):
        skipped.count(10, 1)


def test_what_is_known_beforehand(write_shard: Callable[..., Path], tokenizer: Any) -> None:
    def index(bad: int) -> Index:
        return Index.open([write_shard([(record(), [png()])] * 38 + [(record(), [b"bad"])] * bad)], tokenizer)

    skipped = SkippedSamples("train", samples=200, allowed=0.01)
    skipped.check_plan(index(0), [])
    skipped.check_plan(index(1), [(3, "too large")])
    with pytest.raises(
        DataError,
        match=r"3 of 200 samples cannot be used.*train-000000/0038, train-000000/0039: not an.*0003: too large$",
    ):
        skipped.check_plan(index(2), [(3, "too large")])
    lost = index(0)
    lost.lost_shards[0] = "gone"
    with pytest.raises(DataError, match=r"38 of 200 samples cannot be used.*all samples of .*train-000000.tar: gone$"):
        skipped.check_plan(lost, [])
    with pytest.raises(ValueError, match="got 2"):
        SkippedSamples("train", 1, 2)

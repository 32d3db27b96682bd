from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.loading.opening import PackSettings, open_packs
from mmcomponents.data.loading.skipped import SkippedSamples
from mmcomponents.data.loading.step_counts import StepCounts
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.data.packing.pack_plan import Budgets, Pack


def test_counts_by_source(mixed_shard: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    index = Index.open([mixed_shard], tokenizer)
    dataset, _ = open_packs(index, SampleRenderer(tokenizer, 5, Tiling(1, 6, 28)), PackSettings(Budgets(5000)))
    counts = StepCounts(SkippedSamples("train", len(index), 0.01), len(index.sources), 5000)
    batch = dataset[Pack(0, 0, (0, 2, 3, 4, 4, 5), (0, 0, 0, 0, 1, 0))]
    found = counts.of(batch, None)
    names = ["here", "text", "books", "p", "films"]
    assert [found[f"data/samples/{index.sources.index(name)}"] for name in names] == [1, 0, 2, 2, 1]
    tokens = [found[f"data/tokens/{index.sources.index(name)}"] for name in names]
    assert sum(tokens) == found["data/tokens"] == batch.num_tokens
    assert found["data/tokens_squared"] == batch.num_tokens**2
    assert batch.images is not None
    assert found["data/tiles"] == len(batch.images.pixels)
    assert found["data/seen"] == 6
    nothing = counts.of(dataset[None], None)
    assert set(nothing) == set(found), "all ranks bring the same names to the sum"
    assert [nothing[name] for name in ("data/tokens", "data/tiles", "data/seen")] == [0, 0, 0]
    assert "data/seen" not in counts.reduce(found)


def test_too_many_refused_samples_stop_the_run() -> None:
    counts = StepCounts(SkippedSamples("train", 100, 0.01), 1, 10)
    counts.reduce({"data/seen": 99.0, "data/refused": 1.0})
    with pytest.raises(DataError, match="2 of 100"):
        counts.reduce({"data/seen": 1.0, "data/refused": 1.0})


def test_samples_without_numbers_and_sources_are_seen_too() -> None:
    """Data of one's own may leave both out: else the share of skipped samples would be one of none."""
    counts = StepCounts(SkippedSamples("train", 1000, 0.01), 1, 0)
    plain = [RenderedSample([1, 2, 3], [-100] * 3) for _ in range(4)]
    found = counts.of(collate(plain, 1, 0, ["one: broken"]), None)
    assert found["data/seen"] == 5
    assert found["data/tokens"] == 12
    numbered = [RenderedSample([1, 2], [-100] * 2, sample=n) for n in (3, 3, 4)]
    assert counts.of(collate(numbered, 1, 0), None)["data/seen"] == 2, "two segments of one sample"

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from mmcomponents.data.inspection import Opened, survey
from mmcomponents.data.packing.mixture import TokenShare
from mmcomponents.data.packing.source_options import SourceOptions

from .conftest import HOSTILE_SOURCE

Open = Callable[..., Opened]


def test_what_each_source_has(open_mixed: Open) -> None:
    opened = open_mixed()
    found = survey(opened.mixture)
    sources = {source.name: source for source in found.sources}
    assert list(sources) == ["pictures", "videos", "pairs", "books", HOSTILE_SOURCE, "text", "broken"]
    pictures = sources["pictures"]
    assert (pictures.samples, pictures.images, pictures.videos, pictures.refused) == (2, 3, 0, 0)
    assert pictures.tiles == 9 + 1 + 3  # 4 x 2 and a thumbnail; 1; 1 x 2 and a thumbnail
    assert (sources["videos"].images, sources["videos"].videos, sources["videos"].tiles) == (1, 1, 5)
    assert (sources["text"].samples, sources["text"].refused) == (6, 1)
    assert (sources["broken"].samples, sources["broken"].refused) == (1, 2)
    for name, numbers in {"pictures": (0, 1), "pairs": (3,), "text": range(6, 12)}.items():
        rendered = [segment for number in numbers for segment in opened.packs.render(number)]
        assert sources[name].tokens == sum(len(segment.input_ids) for segment in rendered)
    total = found.total
    assert total.tokens == sum(source.tokens for source in found.sources) == total.epoch_tokens
    assert sum(source.share for source in found.sources) == pytest.approx(1)
    assert found.text_tokens == sources["text"].tokens + sources[HOSTILE_SOURCE].tokens
    assert found.tokens.samples == found.tiles.samples == total.samples == 13


def test_refused_samples_are_counted_by_reason(open_mixed: Open) -> None:
    found = survey(open_mixed().mixture)
    assert [(row.samples, row.first.name) for row in found.refusals] == [
        (2, "mix-000000/noimage"),
        (1, "mix-000000/long"),
    ]
    assert re.match(r"not an image: \d+ bytes of no known format, or a broken header", found.refusals[0].reason)
    assert "a pack takes 800" in found.refusals[1].reason
    assert [row.name for row in found.refused] == [
        "mix-000000/noimage",
        "mix-000000/noimage2",
        "mix-000000/long",
    ]


def test_a_missing_shard_is_one_reason(open_mixed: Open) -> None:
    opened = open_mixed()
    opened.mixture.index.lost_shards[0] = "the shard is missing"
    found = survey(opened.mixture)
    assert found.total.refused == 16
    assert (found.refusals[0].samples, found.refusals[0].first.samples) == (16, 16)


def test_passes_and_shares_of_a_mixture(open_mixed: Open) -> None:
    options = {"text": SourceOptions(repeat=1.5), "books": SourceOptions(repeat=0)}
    found = survey(open_mixed(sources=options).mixture, shown=50)
    sources = {source.name: source for source in found.sources}
    assert (sources["text"].passes, sources["books"].passes, sources["pairs"].passes) == (1.5, 0, 1)
    assert sources["text"].epoch_tokens == 1.5 * sources["text"].tokens
    assert sources["books"].share == 0
    assert len(found.drawn) == 12  # the book is skipped
    even = survey(open_mixed(token_share=TokenShare(1, 1)).mixture)
    assert even.text_share == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("epoch", [0, 1])
def test_tokens_of_a_token_share_are_those_of_the_packs(open_mixed: Open, epoch: int) -> None:
    opened = open_mixed(token_share=TokenShare(2, 1))
    mixture, found = opened.mixture, survey(opened.mixture, epoch)
    blocks = [mixture.block(epoch, number) for number in range(mixture.blocks(epoch))]
    samples, tokens = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("samples", "tokens"))
    columns = mixture.index.take(samples)
    text = (columns.images == 0) & (columns.videos == 0)
    assert (found.text_tokens, found.multimodal_tokens) == (tokens[text].sum(), tokens[~text].sum())
    for source in found.sources:
        number = mixture.index.sources.index(source.name)
        assert source.epoch_tokens == tokens[columns.source == number].sum()
    assert found.notes == []


def test_passes_that_differ_from_epoch_to_epoch_are_noted(open_mixed: Open) -> None:
    opened = open_mixed(sources={"text": SourceOptions(repeat=2.25), "pictures": SourceOptions(repeat=1.5)})
    (note,) = survey(opened.mixture).notes  # 1.5 of six texts on average, always one of two images
    assert note == "text: 1 of 6 samples have one more pass in this epoch, and 2 in the next: 2.25 passes on average"
    assert survey(opened.mixture, 1).notes[0].startswith("text: 2 of 6 samples")
    assert survey(open_mixed().mixture).notes == []


def test_samples_to_show_come_evenly_from_all_sources(open_mixed: Open) -> None:
    opened = open_mixed()
    drawn = survey(opened.mixture, shown=9).drawn
    sources = opened.packs.index.take(drawn).source.tolist()
    assert [sources.count(number) for number in range(7)] == [2, 1, 1, 1, 1, 2, 1]
    assert drawn == survey(open_mixed().mixture, shown=9).drawn
    texts = {tuple(survey(open_mixed(seed=seed).mixture, shown=9).drawn) for seed in range(8)}
    assert len(texts) > 1
    assert survey(opened.mixture, shown=0).drawn == []


def test_all_samples_of_a_source_can_be_drawn(open_mixed: Open) -> None:
    others = ("pictures", "videos", "pairs", "books", HOSTILE_SOURCE, "broken")
    options = {name: SourceOptions(repeat=0) for name in others}
    drawn = [survey(open_mixed(sources=options, seed=seed).mixture, shown=2).drawn for seed in range(12)]
    assert all(len(set(some)) == 2 for some in drawn)
    assert {sample for some in drawn for sample in some} == set(range(6, 12))

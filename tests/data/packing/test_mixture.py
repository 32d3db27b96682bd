from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from data.conftest import png, record
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.loading.dataset import PackDataset
from mmcomponents.data.loading.opening import PackSettings, open_packs
from mmcomponents.data.media.frames import DrawnFrames, MiddleFrames, SameFrames
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.data.packing.mixture import Mixture, TokenShare
from mmcomponents.data.packing.pack_plan import Budgets
from mmcomponents.data.packing.source_options import SourceOptions

Write = Callable[..., Path]
WORDS = ["one", "two", "three", "four", "five", "six", "seven"]


@pytest.fixture
def index(write_shard: Write, tokenizer: PreTrainedTokenizerFast) -> Index:
    """Three sources in three shards: pictures, short texts, and both mixed up with very different lengths."""
    generator = np.random.default_rng(0)

    def text(words: int) -> str:
        return " ".join(generator.choice(WORDS, words))

    pictures = [(record(f"<image> {text(3)}", text(2), source="pictures"), [png(90, 30)])] * 40
    short = [(record(text(2), text(2), source="short"), [])] * 30
    mixed: list[Any] = []
    for number in range(50):
        long = int(generator.pareto(1.0) * 5) + 1
        image = number % 2 == 0
        mixed.append((record("<image>" * image + text(min(long, 300)), text(2), source="mixed"), [png()] * image))
    return Index.open([write_shard(pictures, "a"), write_shard(short, "b"), write_shard(mixed, "c")], tokenizer)


def packs_of(index: Index, tokenizer: PreTrainedTokenizerFast, **options: Any) -> tuple[PackDataset, Mixture]:
    renderer = SampleRenderer(tokenizer, 5, Tiling(1, 6, 28))
    return open_packs(index, renderer, PackSettings(Budgets(1500, 64), **{"block": 32, "seed": 1, **options}))


def epoch_of(packs: PackDataset, epoch: int) -> list[tuple[int, int]]:
    """(sample, copy) of all packs of an epoch."""
    first = packs.plan.first_pack(epoch)
    chosen = [packs.plan.pack(first + number) for number in range(packs.plan.packs_in_epoch(epoch))]
    return [entry for pack in chosen for entry in zip(pack.samples, pack.copies, strict=True)]


def test_without_a_mixture_each_sample_comes_once(index: Index, tokenizer: PreTrainedTokenizerFast) -> None:
    packs, mixture = packs_of(index, tokenizer)
    orders = [epoch_of(packs, epoch) for epoch in range(2)]
    for order in orders:
        assert sorted(order) == [(sample, 0) for sample in range(len(index))]
    assert orders[0] != orders[1]
    assert [mixture.describe(group) for group in mixture.groups] == ["pictures", "short", "mixed"]
    still, mixture = packs_of(index, tokenizer, shuffle=False)
    blocks = [sample // 30 for sample, _ in epoch_of(still, 0)]
    assert blocks == sorted(blocks), "four blocks of 30, one after the other"
    assert [mixture.describe(group) for group in mixture.groups] == ["all sources"]


def test_repeats_draw_a_fraction_by_the_seed(index: Index, tokenizer: PreTrainedTokenizerFast) -> None:
    sources = {"pictures": SourceOptions(repeat=0.5), "short": SourceOptions(repeat=2.5)}
    packs, _ = packs_of(index, tokenizer, sources=sources)
    halves = []
    for epoch in range(2):
        entries = epoch_of(packs, epoch)
        assert len(entries) == len(set(entries)) == 20 + 75 + 50
        times = Counter(sample for sample, _ in entries)
        assert Counter(times[s] for s in range(40, 70)) == {2: 15, 3: 15}
        assert all(times[s] == 1 for s in range(70, 120))
        assert {copy for sample, copy in entries if sample in range(40, 70)} == {0, 1, 2}
        halves.append({s for s in range(40) if times[s]})
    assert halves[0] not in (set(range(20)), set(range(20, 40))), "not the first lines"
    assert halves[0] | halves[1] == set(range(40)), "the next epoch goes on with the others"
    thirds, _ = packs_of(index, tokenizer, sources={"pictures": SourceOptions(repeat=1 / 3)})
    seen = Counter(s for epoch in range(6) for s, _ in epoch_of(thirds, epoch) if s < 40)
    assert set(seen.values()) == {2}, "in three epochs each sample comes once"
    other, _ = packs_of(index, tokenizer, sources=sources, seed=2)
    assert {s for s, _ in epoch_of(other, 0) if s < 40} != halves[0]
    again, _ = packs_of(index, tokenizer, sources=sources)
    assert epoch_of(again, 1) == epoch_of(packs, 1)


def test_weights_are_shares_of_the_samples(index: Index, tokenizer: PreTrainedTokenizerFast) -> None:
    sources = {"pictures": SourceOptions(weight=1), "short": SourceOptions(weight=3), "mixed": SourceOptions(repeat=0)}
    packs, _ = packs_of(index, tokenizer, sources=sources)
    entries = epoch_of(packs, 0)
    assert Counter("ps"[sample >= 40] for sample, _ in entries) == {"p": 40, "s": 120}
    assert max(sample for sample, _ in entries) < 70


@pytest.mark.parametrize("share", [TokenShare(1, 3), TokenShare(3, 1), TokenShare(1, 1), TokenShare(1, 30)])
@pytest.mark.parametrize("sources", [{}, {"pictures": SourceOptions(repeat=1.7), "short": SourceOptions(repeat=0.3)}])
def test_the_token_share_holds_within_a_percent(
    index: Index,
    tokenizer: PreTrainedTokenizerFast,
    share: TokenShare,
    sources: dict[str, SourceOptions],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        packs, _ = packs_of(index, tokenizer, sources=sources, share=share)
    wanted = share.text / (share.text + share.multimodal)
    for epoch in range(2):
        entries = epoch_of(packs, epoch)
        samples, copies = (np.array(column) for column in zip(*entries, strict=True))
        rows = index.take(samples)
        tokens, _ = packs.sizes.of(rows, samples, copies, epoch)
        text = tokens[rows.images == 0].sum() / tokens.sum()
        largest = tokens.max() / tokens.sum()
        assert abs(text - wanted) < max(0.01 * wanted, largest)
        if not sources:
            assert len({sample for sample, _ in entries}) == len(index), "the short side is repeated, nothing is lost"
    assert "passes per epoch" in caplog.text


def test_what_the_token_share_leaves_out_comes_in_later_epochs(
    index: Index, tokenizer: PreTrainedTokenizerFast
) -> None:
    sources = {"pictures": SourceOptions(repeat=0.4), "short": SourceOptions(repeat=0.1)}
    packs, mixture = packs_of(index, tokenizer, sources=sources, share=TokenShare(3, 1))
    seen = {sample for epoch in range(6) for sample, _ in epoch_of(packs, epoch)}
    assert mixture.parts(0)[0].start == 0 < mixture.parts(1)[0].start
    assert {sample for sample in seen if sample < 40} == set(range(40))


def test_many_small_sources_keep_the_token_share(write_shard: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    generator = np.random.default_rng(3)
    shards = []
    for source in range(8):
        texts = [" ".join(["word"] * int(n)) for n in generator.integers(1, 120, 6)]
        shards.append(write_shard([(record(text, "yes", source=f"t{source}"), []) for text in texts], f"t{source}"))
    shards.append(write_shard([(record(source="pictures"), [png(90, 30)])] * 60, "pictures"))
    index = Index.open(shards, tokenizer)
    for share in (TokenShare(1, 3), TokenShare(1, 1), TokenShare(3, 1)):
        packs, mixture = packs_of(index, tokenizer, share=share)
        for epoch in range(4):
            samples, copies = (np.array(column) for column in zip(*epoch_of(packs, epoch), strict=True))
            rows = index.take(samples)
            tokens, _ = packs.sizes.of(rows, samples, copies, epoch)
            ratio = tokens[rows.images > 0].sum() / tokens[rows.images == 0].sum()
            assert ratio == pytest.approx(share.multimodal / share.text, rel=0.01)
            assert sum(part.tokens for part in mixture.parts(epoch)) == tokens.sum(), "parts know their tokens"


def test_what_one_source_falls_short_of_is_made_up_by_the_next(
    write_shard: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = [write_shard([(record("six words of the same length", source=f"t{n}"), [])], f"t{n}") for n in range(6)]
    pictures = write_shard([(record(source="pictures"), [png(90, 30)])] * 40, "pictures")
    index = Index.open([*texts, pictures], tokenizer)
    tokens = {group.text: group.tokens for group in packs_of(index, tokenizer, share=TokenShare())[1].groups}
    target = 6 * 1.4 * tokens[True]  # each source alone would be rounded down to one pass
    _, mixture = packs_of(index, tokenizer, share=TokenShare(target, tokens[False]))
    made = sum(part.tokens for group, part in zip(mixture.groups, mixture.parts(0), strict=True) if group.text)
    assert abs(made - target) <= 0.5 * tokens[True]


def test_every_block_has_its_share_of_each_group(index: Index, tokenizer: PreTrainedTokenizerFast) -> None:
    _, mixture = packs_of(index, tokenizer, sources={"short": SourceOptions(repeat=2)})
    for number in range(mixture.blocks(0)):
        block = mixture.block(0, number)
        shares = np.bincount(index.take(block.samples).source, minlength=3) / len(block.samples)
        assert shares == pytest.approx([40 / 150, 60 / 150, 50 / 150], abs=0.05)


def test_samples_that_no_pack_holds_are_refused(index: Index, tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = SampleRenderer(tokenizer, 5, Tiling(1, 6, 28))
    packs, mixture = open_packs(index, renderer, PackSettings(Budgets(120, 3)))
    assert mixture.refused
    assert all("a pack takes" in reason for _, reason in mixture.refused)
    kept = {sample for sample, _ in epoch_of(packs, 0)}
    assert kept | {sample for sample, _ in mixture.refused} == set(range(len(index)))
    with pytest.raises(DataError, match="no sample is left of 120: 120 exceed"):
        open_packs(index, renderer, PackSettings(Budgets(5)))


def test_impossible_mixtures_are_refused(index: Index, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="'shorts', the shards have 'pictures', 'short', 'mixed'; did you mean 'short'"):
        packs_of(index, tokenizer, sources={"shorts": SourceOptions()})
    only_text = {name: SourceOptions(repeat=0) for name in ("pictures", "mixed")}
    with pytest.raises(DataError, match="needs multimodal samples, the data has none"):
        packs_of(index, tokenizer, sources=only_text, share=TokenShare())
    for wrong in ({"repeat": -1}, {"weight": 0}, {"max_tiles": 0}):
        (name,) = wrong
        with pytest.raises(ValueError, match=rf"data\.sources\.short\.{name} must be"):
            packs_of(index, tokenizer, sources={"short": SourceOptions(**wrong)})
    with pytest.raises(ValueError, match="two positive parts, not 0 : 3"):
        TokenShare(0, 3).check()


def test_more_samples_than_are_kept_in_memory(
    index: Index, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"sources": {"short": SourceOptions(repeat=1.5)}, "share": TokenShare(1, 2)}
    whole = epoch_of(packs_of(index, tokenizer, **options)[0], 0)
    monkeypatch.setattr("mmcomponents.data.format.sample_index.KEPT_SAMPLES", 1)
    small = Index.open(index.shards, tokenizer)
    assert epoch_of(packs_of(small, tokenizer, **options)[0], 0) == whole
    assert len(small._kept) == 1


def test_a_plan_knows_when_the_data_changed(index: Index, tokenizer: PreTrainedTokenizerFast) -> None:
    prints = {
        packs_of(index, tokenizer, **options)[0].plan.fingerprint()
        for options in (
            {},
            {"seed": 2},
            {"block": 16},
            {"share": TokenShare()},
            {"sources": {"short": SourceOptions(repeat=2)}},
            {"sources": {"mixed": SourceOptions(max_tiles=1)}},
        )
    }
    assert len(prints) == 6 - 1, "mixed has single tiles already, so its budget of one changes nothing"
    assert packs_of(index, tokenizer)[0].plan.fingerprint() in prints


def test_small_groups_and_small_blocks(write_shard: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    shards = [write_shard([(record("a", "b", source=f"s{n}"), [])] * (1 + n % 3), f"s{n}") for n in range(7)]
    index = Index.open(shards, tokenizer)
    for block in (1, 2, 3, 5, 100):
        packs, mixture = packs_of(index, tokenizer, block=block)
        assert sorted(epoch_of(packs, 0)) == [(sample, 0) for sample in range(len(index))]
        assert sorted(epoch_of(packs, 1)) == [(sample, 0) for sample in range(len(index))]
        sizes = [len(mixture.block(0, number).samples) for number in range(mixture.blocks(0))]
        assert sum(sizes) == len(index)
        assert max(sizes) <= 2 * block + 3, "not all of them in the last"
    few, _ = packs_of(index, tokenizer, sources={f"s{n}": SourceOptions(repeat=0.3) for n in range(7)})
    assert few.plan.epoch_length() >= 1
    assert few.plan.pack(0).samples


def test_other_frames_are_another_plan(mixed_shard: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    index = Index.open([mixed_shard], tokenizer)
    prints = {
        packs_of(index, tokenizer, frames=frames)[0].plan.fingerprint()
        for frames in (DrawnFrames(2, 9), DrawnFrames(8, 9), SameFrames(MiddleFrames(9)))
    }
    assert len(prints) == 3


def test_tokens_of_videos_are_those_of_their_first_occurrence(
    mixed_shard: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    index = Index.open([mixed_shard], tokenizer)
    _, mixture = packs_of(index, tokenizer, frames=DrawnFrames(1, 40))
    samples = np.arange(len(index))
    first, second = (
        int(mixture.sizes.of(index.take(samples), samples, np.full_like(samples, copy), 0)[0].sum()) for copy in (0, 1)
    )
    assert first != second
    assert sum(share.tokens for share in mixture.shares()) == first

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.loading.opening import PackSettings, open_packs
from mmcomponents.data.media.frames import DrawnFrames, FrameDraw, MiddleFrames, SameFrames
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.data.packing.pack_plan import Budgets, Pack
from mmcomponents.data.packing.source_options import SourceOptions


class EveryThird:
    """As many frames as the video is long: a number that only its index tells."""

    def indices(self, total: int, fps: float) -> list[int]:
        return list(range(0, total, 3))


@pytest.mark.parametrize("system", [None, "Answer in one word."])
@pytest.mark.parametrize("frames", [DrawnFrames(2, 9), SameFrames(MiddleFrames(3)), SameFrames(EveryThird())])
def test_planned_sizes_are_the_rendered_ones(
    mixed_shard: Path, tokenizer: PreTrainedTokenizerFast, frames: FrameDraw, system: str | None
) -> None:
    index = Index.open([mixed_shard], tokenizer)
    renderer = SampleRenderer(tokenizer, 5, Tiling(1, 6, 28), system=system)
    sources = {"p": SourceOptions(max_tiles=2)}
    dataset, _ = open_packs(index, renderer, PackSettings(Budgets(5000), seed=4, frames=frames, sources=sources))
    every = np.arange(len(index))
    largest = dataset.sizes.largest(index.columns(0))
    seen = set()
    for epoch in range(3):
        for copy in range(2):
            tokens, tiles = dataset.sizes.of(index.take(every), every, np.full_like(every, copy), epoch)
            for number in every.tolist():
                batch = dataset[Pack(0, epoch, (number,), (copy,))]
                assert batch.refused == []
                assert batch.num_tokens == tokens[number] <= largest[0][number]
                assert (0 if batch.images is None else len(batch.images.pixels)) == tiles[number] <= largest[1][number]
            seen.add(tuple(tiles.tolist()))
    assert (len(seen) > 1) == isinstance(frames, DrawnFrames), "frames are drawn anew for each epoch and copy"
    assert tiles[4] == 3, "two and a thumbnail"


@pytest.mark.parametrize("template", ["<image>", "{number}<image>", "Frame {number} of many: <image>, then"])
def test_any_frame_template(mixed_shard: Path, tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    build_index(mixed_shard, tokenizer, frame_template=template)
    index = Index.open([mixed_shard], tokenizer, frame_template=template)
    renderer = SampleRenderer(tokenizer, 1, Tiling(1, 1, 28), frame_template=template)
    dataset, _ = open_packs(index, renderer, PackSettings(Budgets(5000), frames=DrawnFrames(8, 13)))
    every = np.array([5, 6])
    tokens, _ = dataset.sizes.of(index.take(every), every, np.zeros_like(every), 0)
    assert [dataset[Pack(0, 0, (number,))].num_tokens for number in every.tolist()] == tokens.tolist()


def test_a_pair_shares_its_image(mixed_shard: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    index = Index.open([mixed_shard], tokenizer)
    renderer = SampleRenderer(tokenizer, 5, Tiling(1, 6, 28))
    dataset, _ = open_packs(index, renderer, PackSettings(Budgets(5000), delta_log2=[0, 1, 2, 3]))
    batch = dataset[Pack(0, 0, (0, 4, 1))]
    assert batch.pairs is not None
    assert (batch.pairs.chosen.tolist(), batch.pairs.rejected.tolist()) == ([1], [2])
    begin = batch.layout.cu_seqlens.tolist()
    chosen, rejected = (batch.visual_index[begin[s] : begin[s + 1]] for s in (1, 2))
    assert chosen[chosen >= 0].tolist() == rejected[rejected >= 0].tolist()
    assert batch.images is not None
    assert len(batch.images.tile_image.unique()) == 2
    texts = [tokenizer.decode(batch.labels[begin[s] : begin[s + 1]].clamp(min=0)) for s in (1, 2)]
    assert "3<|im_end|>" in texts[0]
    assert "7 1<|im_end|>" in texts[1]


def test_documents_are_targets_from_begin_to_end(mixed_shard: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    index = Index.open([mixed_shard], tokenizer)
    dataset, _ = open_packs(index, SampleRenderer(tokenizer, 5, Tiling(1, 6, 28)), PackSettings(Budgets(5000)))
    plain, pictured = dataset[Pack(0, 0, (2,))], dataset[Pack(0, 0, (3,))]
    assert (plain.labels[:-1] == plain.input_ids[1:]).all()
    assert plain.labels[-1] == -100
    assert tokenizer.decode(plain.input_ids) == "Many digits in order. " * 5 + "<|endoftext|>"
    supervised = pictured.labels[pictured.labels >= 0]
    first, *rest = (tokenizer.encode(part) for part in ("Look: ", " and ", "."))
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert supervised.tolist() == [*first[1:], *rest[0], *rest[1], end]


def test_the_frames_that_are_read_are_those_drawn(mixed_shard: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    index = Index.open([mixed_shard], tokenizer)
    renderer = SampleRenderer(tokenizer, 1, Tiling(1, 1, 28), "siglip")
    dataset, _ = open_packs(index, renderer, PackSettings(Budgets(5000), frames=DrawnFrames(4, 4)))
    shown = []
    for epoch in range(3):
        (sample,) = dataset.render(6, epoch)
        grey = [float(image.pixels.mean()) for image in sample.images]
        assert grey == sorted(grey)
        shown.append(tuple(grey))
    assert len(set(shown)) == 3
    assert dataset.render(6, 1)[0].images[2].pixels.equal(dataset.render(6, 1)[0].images[2].pixels)

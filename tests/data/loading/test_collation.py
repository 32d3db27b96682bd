from __future__ import annotations

import pytest
import torch

from mmcomponents.batch import TokenType
from mmcomponents.data.chat.template import RenderedChat
from mmcomponents.data.loading.collation import RenderedSample, collate, token_grid
from mmcomponents.data.media.images import TiledImage


def image(tiles: int, delta: int | None = None) -> TiledImage:
    return TiledImage(torch.full((tiles, 3, 2, 2), float(tiles)), delta)


def sample(number: int, ids: list[int], labels: list[int], spans: list, images: list[TiledImage]) -> RenderedSample:
    return RenderedSample(RenderedChat(ids, labels, spans), images, number, number % 2, f"shard/{number}")


def test_the_whole_pack() -> None:
    first = sample(7, [5, 9, 9, 9, 9, 6, 8], [-100] * 5 + [6, 8], [(1, 4)], [image(2)])
    second = sample(4, [1, 2], [1, 2], [], [])
    third = sample(3, [9, 9, 9, 9, 4], [-100] * 4 + [4], [(0, 2), (2, 2)], [image(1), image(1)])
    batch = collate([first, second, third], tokens_per_tile=2, pad_id=0)
    assert batch.input_ids.tolist() == [5, 9, 9, 9, 9, 6, 8, 1, 2, 9, 9, 9, 9, 4]
    # shifted within each segment: the last token of one does not predict the first of the next
    assert batch.labels.tolist() == [-100] * 4 + [6, 8, -100] + [2, -100] + [-100] * 3 + [4, -100]
    assert batch.visual_index.tolist() == [-1, 0, 1, 2, 3, -1, -1, -1, -1, 4, 5, 6, 7, -1]
    layout = batch.layout
    assert layout.cu_seqlens.tolist() == [0, 7, 9, 14]
    assert layout.cu_seqlens.dtype == torch.int32
    assert layout.max_seqlen == 7
    assert layout.image_id.tolist() == [-1, 0, 0, 0, 0, -1, -1, -1, -1, 1, 1, 2, 2, -1]
    assert layout.grid.tolist() == [[2, 1, 2], [1, 1, 2], [1, 1, 2]]
    visual = batch.visual_index >= 0
    assert (layout.token_type[visual] == TokenType.IMAGE).all()
    assert (layout.token_type[~visual] == TokenType.TEXT).all()
    assert batch.images is not None
    assert batch.images.tile_image.tolist() == [0, 0, 1, 2]
    assert batch.images.pixels[:, 0, 0, 0].tolist() == [2, 2, 1, 1]
    assert batch.segment_sample.tolist() == [7, 4, 3]
    assert batch.segment_source.tolist() == [1, 0, 1]
    assert batch.keys == ["shard/7", "shard/4", "shard/3"]
    assert layout.delta_log2 is None


def test_segments_may_share_an_image() -> None:
    shared = image(1, 3)
    samples = [sample(n, [9, 9, n], [-100] * 3, [(0, 2)], [shared]) for n in (1, 2)]
    batch = collate([*samples, sample(3, [9, 9], [-100] * 2, [(0, 2)], [image(1, 5)])], 2, 0)
    assert batch.visual_index.tolist() == [0, 1, -1, 0, 1, -1, 2, 3]
    assert batch.layout.image_id.tolist() == [0, 0, -1, 0, 0, -1, 1, 1]
    assert batch.layout.delta_log2 is not None
    assert batch.layout.delta_log2.tolist() == [3, 5]
    assert batch.images is not None
    assert len(batch.images.pixels) == 2


def test_a_mismatch_raises_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"shard/1: 3 image tokens for 4 visual tokens \(2 tiles of 2\)"):
        collate([sample(1, [9, 9, 9], [-100] * 3, [(0, 3)], [image(2)])], 2, 0)
    with pytest.raises(ValueError, match="1 image spans for 2 images"):
        collate([sample(1, [9, 9, 9], [-100] * 3, [(0, 3)], [image(1), image(1)])], 2, 0)
    both = [image(1, 3), image(1)]
    with pytest.raises(ValueError, match="1 of 2 images"):
        collate([sample(1, [9, 9], [-100] * 2, [(0, 1), (1, 1)], both)], 1, 0)


def test_nothing_at_all() -> None:
    batch = collate([], 4, pad_id=11, refused=["a/b: c"])
    assert batch.input_ids.tolist() == [11]
    assert batch.layout.token_type.tolist() == [TokenType.PAD]
    assert batch.layout.cu_seqlens.tolist() == [0, 1]
    assert batch.labels.tolist() == [-100]
    assert batch.refused == ["a/b: c"]
    assert batch.images is None
    assert batch.layout.grid.shape == (0, 3)


@pytest.mark.parametrize(("tokens", "grid"), [(256, (16, 16)), (4, (2, 2)), (128, (8, 16)), (7, (1, 7)), (1, (1, 1))])
def test_token_grid(tokens: int, grid: tuple[int, int]) -> None:
    assert token_grid(tokens) == grid


def test_the_steps_of_critic_samples() -> None:
    first = sample(1, [5, 6, 1, 8, 6, 1, 8], [-100, -100, 2, -100, -100, 1, -100], [], [])
    second = sample(2, [6, 1, 8], [-100, 1, -100], [], [])
    first.verdicts, second.verdicts = [0, 1], [1]
    batch = collate([first, second], 4, 0)
    assert batch.steps is not None
    assert batch.steps.score_at.tolist() == [1, 4, 7]
    assert batch.steps.sample.tolist() == [0, 0, 1]
    assert batch.steps.label.tolist() == [0, 1, 1]
    assert batch.labels.tolist() == [-100, 2, -100, -100, 1, -100, -100, 1, -100, -100]
    plain = sample(3, [1, 2], [1, 2], [], [])
    assert collate([plain], 4, 0).steps is None
    second.verdicts = [1, 0]
    with pytest.raises(ValueError, match="shard/2: 2 verdicts, 1 targets"):
        collate([first, second], 4, 0)

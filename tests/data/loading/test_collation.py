from __future__ import annotations

import pytest
import torch

from mmcomponents.batch import Exact, Steps, TokenType
from mmcomponents.data.chat.kinds.scored_steps import scored_steps
from mmcomponents.data.chat.rendered_sample import RenderedSample, Span
from mmcomponents.data.chat.template import RenderedChat
from mmcomponents.data.loading.collation import collate, token_grid
from mmcomponents.data.media.images import TiledImage
from mmcomponents.extras import Actions, Boxes, Extra, Pictures


def image(tiles: int, delta: int | None = None) -> TiledImage:
    return TiledImage(torch.full((tiles, 3, 2, 2), float(tiles)), delta)


def sample(number: int, ids: list[int], labels: list[int], spans: list, images: list[TiledImage]) -> RenderedSample:
    chat, key = RenderedChat(ids, labels, spans), f"shard/{number}"
    return RenderedSample.of_chat(chat, images, sample=number, source=number % 2, key=key)


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


def laid_out(spans: list[Span], images: list[TiledImage], length: int = 8, **extras: Extra) -> RenderedSample:
    return RenderedSample(list(range(length)), [-100] * length, spans, images, extras, 1, 0, "shard/1")


def test_every_type_of_token_has_its_place() -> None:
    others = [kind for kind in TokenType if kind not in (TokenType.PAD, TokenType.TEXT)]
    spans = [Span(place, 1, kind, 0 if kind == TokenType.IMAGE else -1) for place, kind in enumerate(others, start=1)]
    batch = collate([laid_out(spans, [image(1)]), laid_out([], [])], 1, 0)
    assert batch.layout.token_type.tolist() == [TokenType.TEXT, *others, TokenType.TEXT] + [TokenType.TEXT] * 8
    assert batch.visual_index.tolist() == [-1, 0] + [-1] * 14
    assert batch.layout.image_id.tolist() == [-1, 0] + [-1] * 14


def test_a_span_may_have_no_tokens_and_a_segment_neither() -> None:
    nothing = RenderedSample([], [], [], [], sample=2, key="shard/2")
    one, other = laid_out([Span(8, 0, TokenType.ACTION)], []), laid_out([], [])
    batch = collate([one, nothing, other], 1, 0)
    assert batch.layout.cu_seqlens.tolist() == [0, 8, 8, 16]
    assert (batch.layout.token_type == TokenType.TEXT).all()
    assert batch.segment_sample.tolist() == [1, 2, 1]
    assert batch.labels.shape == (16,)


def test_images_that_no_span_places_are_encoded_too() -> None:
    placed, free = image(1), image(2)
    batch = collate([laid_out([Span(0, 2, TokenType.IMAGE, 1)], [free, placed]), laid_out([], [free])], 2, 0)
    assert batch.images is not None
    assert batch.images.tile_image.tolist() == [0, 0, 1]
    assert batch.visual_index.tolist() == [4, 5] + [-1] * 14
    assert batch.layout.grid.tolist() == [[2, 1, 2], [1, 1, 2]]


def test_an_image_may_be_placed_twice_and_be_of_another_type() -> None:
    spans = [Span(0, 2, TokenType.IMAGE_GEN, 0), Span(4, 2, TokenType.IMAGE, 0)]
    batch = collate([laid_out(spans, [image(1)])], 2, 0)
    assert batch.visual_index.tolist() == [0, 1, -1, -1, 0, 1, -1, -1]
    assert batch.layout.token_type.tolist() == [3, 3, 1, 1, 2, 2, 1, 1]


def test_an_image_may_have_its_own_number_of_tokens() -> None:
    own = TiledImage(torch.zeros(2, 3, 2, 2), visual_tokens=6)
    samples = [laid_out([Span(0, 6, TokenType.IMAGE, 0)], [own]), laid_out([Span(0, 2, image=0)], [image(1)])]
    batch = collate(samples, 2, 0)
    assert batch.visual_index[:6].tolist() == [0, 1, 2, 3, 4, 5]
    assert batch.visual_index[8:10].tolist() == [6, 7]
    assert batch.layout.grid.tolist() == [[2, 1, 3], [1, 1, 2]]
    with pytest.raises(ValueError, match=r"shard/1: 4 image tokens for 6 visual tokens"):
        collate([laid_out([Span(0, 4, TokenType.IMAGE, 0)], [own])], 2, 0)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([Span(-1, 2)], "a span from -1 to 1 in a segment of 8 tokens"),
        ([Span(7, 2)], "a span from 7 to 9 in a segment of 8 tokens"),
        ([Span(2, -1)], "a span from 2 to 1 in a segment"),
        ([Span(0, 3, TokenType.ACTION), Span(2, 2, TokenType.QUERY)], "the span from 2 to 4 overlaps another one"),
        ([Span(0, 2, image=1)], "a span of image 1 in a segment of 1 images"),
    ],
)
def test_impossible_spans_are_refused_with_the_sample(spans: list[Span], message: str) -> None:
    with pytest.raises(ValueError, match=f"^shard/1: {message}"):
        collate([laid_out(spans, [image(1)])], 2, 0)


def ids(tiles: int, value: int, size: int = 2) -> TiledImage:
    return TiledImage(None, vq_ids=torch.full((tiles, size, size), value))


def test_images_may_be_ids_of_an_image_tokenizer() -> None:
    spans = [Span(0, 2, image=0), Span(2, 4, image=1)]
    batch = collate([laid_out(spans, [ids(1, 5), ids(2, 7)])], 2, 0)
    assert batch.images is not None
    assert batch.images.pixels is None
    assert batch.images.vq_ids is not None
    assert batch.images.vq_ids.dtype == torch.int64
    assert batch.images.vq_ids[:, 0, 0].tolist() == [5, 7, 7]
    assert batch.images.tile_image.tolist() == [0, 1, 1]
    assert batch.images.valid_hw is None
    with pytest.raises(ValueError, match="a pack has images of pixels and images of vq_ids"):
        collate([laid_out([], [ids(1, 5)]), laid_out([], [image(1)])], 2, 0)


def test_unequal_images_are_padded() -> None:
    wide = TiledImage(torch.ones(1, 3, 2, 6))
    tall = TiledImage(torch.ones(2, 3, 4, 2))
    batch = collate([laid_out([], [wide, tall])], 2, 0)
    assert batch.images is not None
    pixels = batch.images.require_pixels()
    assert pixels.shape == (3, 3, 4, 6)
    assert batch.images.valid_hw is not None
    assert batch.images.valid_hw.tolist() == [[2, 6], [4, 2], [4, 2]]
    for tile, (height, width) in zip(pixels, batch.images.valid_hw.tolist(), strict=True):
        assert (tile[:, :height, :width] == 1).all()
        assert tile.sum() == 3 * height * width
    known = TiledImage(torch.ones(1, 3, 4, 4), valid_hw=(3, 4))
    batch = collate([laid_out([], [known, TiledImage(torch.ones(1, 3, 4, 4))])], 2, 0)
    assert batch.images is not None
    assert batch.images.valid_hw is not None
    assert batch.images.valid_hw.tolist() == [[3, 4], [4, 4]]
    unequal = collate([laid_out([], [ids(1, 5), ids(1, 7, 3)])], 2, 0).images
    assert unequal is not None
    assert unequal.vq_ids is not None
    assert unequal.vq_ids.shape == (2, 3, 3)


def boxes(*tiles: int) -> Boxes:
    return Boxes(Exact(torch.rand(len(tiles), 4)), torch.arange(len(tiles)), torch.tensor(tiles, dtype=torch.int64))


def test_boxes_point_to_the_tiles_of_their_images() -> None:
    shared, own = image(2), image(1)
    first = laid_out([], [shared], boxes=boxes(0, 1))
    second = laid_out([], [own, shared], boxes=boxes(0, 2, 1))  # its tiles: that of its own image, then the shared ones
    third = laid_out([], [])
    batch = collate([first, second, third], 2, 0, empty={"boxes": Boxes.none()})
    found = batch.extras["boxes"]
    assert isinstance(found, Boxes)
    assert found.tile.tolist() == [0, 1, 2, 1, 0]
    assert found.label.tolist() == [0, 1, 0, 1, 2]
    with pytest.raises(ValueError, match=r"shard/1: the field boxes cannot be placed in the pack: .*and there are 2"):
        collate([laid_out([], [shared], boxes=boxes(2))], 2, 0)


def test_fields_of_a_pack_are_joined_with_the_empty_ones() -> None:
    def actions(*values: float) -> Actions:
        return Actions(Exact(torch.tensor(values)[:, None]), torch.ones(len(values), dtype=torch.bool))

    empty = {"actions": Actions.none(1), "steps": Steps.of()}
    batch = collate([laid_out([], [], actions=actions(1, 2)), laid_out([], [], actions=actions(3))], 1, 0, empty=empty)
    found = batch.extras["actions"]
    assert isinstance(found, Actions)
    assert found.values.tensor[:, 0].tolist() == [1, 2, 3]
    assert batch.steps is not None, "steps and pairs are the pack's own"
    assert list(batch.extras) == ["actions"]
    for nothing in (collate([], 1, 0, empty=empty), collate([laid_out([], [])], 1, 0, empty=empty)):
        assert isinstance(found := nothing.extras["actions"], Actions)
        assert found.values.tensor.shape == (0, 1)
        assert nothing.steps is not None
    pictures = Pictures(Exact(torch.zeros(1, 3, 2, 2)))
    made = collate([laid_out([], [], made=pictures)] * 2, 1, 0).extras["made"]
    assert isinstance(made, Pictures)
    assert made.target.tensor.shape == (2, 3, 2, 2)


def test_a_pack_knows_seed_epoch_and_copies() -> None:
    samples = [laid_out([], []), laid_out([], [])]
    samples[1].copy = 1
    batch = collate(samples, 1, 0, seed=4, epoch=2)
    assert (batch.seed, batch.epoch) == (4, 2)
    assert batch.segment_copy is not None
    assert batch.segment_copy.tolist() == [0, 1]
    nothing = collate([], 1, 0, seed=4, epoch=2)
    assert (nothing.seed, nothing.epoch) == (4, 2)


def test_a_mismatch_raises_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"shard/1: 3 image tokens for 4 visual tokens \(2 tiles of 2\)"):
        collate([sample(1, [9, 9, 9], [-100] * 3, [(0, 3)], [image(2)])], 2, 0)
    with pytest.raises(ValueError, match="shard/1: 2 ids and 1 labels"):
        collate([RenderedSample([1, 2], [1], key="shard/1")], 2, 0)
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
    first = sample(1, [5, 6, 1, 8, 6, 1, 8], [-100, -100, 2, 8, -100, 1, 8], [], [])
    second = sample(2, [6, 1, 8], [-100, 1, 8], [], [])
    first.extras["steps"], second.extras["steps"] = (
        scored_steps(segment.labels, truth) for segment, truth in ((first, [0, 1]), (second, [1]))
    )
    batch = collate([first, second], 4, 0)
    assert batch.steps is not None
    assert batch.steps.score_at.tolist() == [1, 4, 7]
    assert batch.steps.sample.tolist() == [0, 0, 1]
    assert batch.steps.label.tolist() == [0, 1, 1]
    plain = sample(3, [1, 2], [1, 2], [], [])
    assert collate([plain], 4, 0).steps is None

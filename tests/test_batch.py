"""The types of a pack: images of pixels or of ids, fields of other packages, and draws of segments."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from torch.utils import _pytree as pytree

import tiny
from mmcomponents.batch import FeatureMap, ImageBatch, Layout, PackedBatch, VisualFeatures
from mmcomponents.extras import Actions, Boxes
from mmcomponents.movable import Exact
from mmcomponents.positions import V2PE
from mmcomponents.sequence import one_sequence


def with_actions() -> PackedBatch:
    actions = Actions(Exact(torch.tensor([[1.1, 2.2]])), torch.tensor([True]))
    return replace(tiny.pack([("t", 4)], [("i", 1), ("t", 3)]), extras={"actions": actions, "boxes": Boxes.none()})


def test_images_are_pixels_or_ids() -> None:
    tiles = torch.tensor([0, 0])
    pixels = ImageBatch(torch.zeros(2, 3, 4, 6), tiles)
    assert (pixels.num_tiles, pixels.pixel_hw) == (2, (4, 6))
    assert pixels.require_pixels() is pixels.pixels
    ids = ImageBatch(None, tiles, vq_ids=torch.zeros(2, 2, 2, dtype=torch.int64))
    assert ids.num_tiles == 2
    for read in (ids.require_pixels, lambda: ids.pixel_hw):
        with pytest.raises(ValueError, match=r"ids of an image tokenizer \(vq_ids\), where pixels are needed"):
            read()
    with pytest.raises(ValueError, match="images are pixels or vq_ids, got neither"):
        ImageBatch(None, tiles)
    with pytest.raises(ValueError, match="images are pixels or vq_ids, got both"):
        replace(ids, pixels=pixels.pixels)
    with pytest.raises(ValueError, match=r"tile_image is \[2\]: it has the index of the image of each of the 3 tiles"):
        ImageBatch(torch.zeros(3, 3, 4, 6), tiles)
    for read in (ImageBatch.require_pixels, tiny.vision()):
        with pytest.raises(ValueError, match=r"pixels are torch.uint8: they are normalised floating-point numbers"):
            read(ImageBatch(torch.zeros(2, 3, 4, 6, dtype=torch.uint8), tiles))
        with pytest.raises(TypeError, match="pixels are a list, not a tensor"):
            read(ImageBatch([0.0, 0.0], tiles))


class Deepest(torch.nn.Module):
    def forward(self, features: VisualFeatures) -> torch.Tensor:
        return features.primary.tokens * 2


def test_trees_of_torch_take_features_and_images_apart() -> None:
    features = VisualFeatures([FeatureMap(torch.ones(1, 6, 4), (2, 3))])
    for kind in (FeatureMap, VisualFeatures, ImageBatch, Layout):
        if kind not in pytree.SUPPORTED_NODES:
            torch.export.register_dataclass(kind)
    exported = torch.export.export(Deepest(), (features,))
    assert torch.equal(exported.module()(features), features.primary.tokens * 2)
    shapes = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.shape, features)
    assert shapes.primary.tokens == (1, 6, 4)
    images = ImageBatch(torch.zeros(2, 3, 4, 6), torch.tensor([0, 1]))
    assert pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.shape, images).tile_image == (2,)
    layout = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.shape, Layout.of_text([2, 3]))
    assert layout.image_id == (5,)


@pytest.mark.parametrize("lengths", [[5, 7], (5, 7), torch.tensor([5, 7]), iter([5, 7])])
def test_a_layout_of_text_has_one_segment_for_each_length(lengths: Iterable[int]) -> None:
    layout = Layout.of_text(lengths)
    assert layout.cu_seqlens.tolist() == [0, 5, 12]
    assert layout.cu_seqlens.dtype == torch.int32
    assert (layout.max_seqlen, type(layout.max_seqlen), layout.num_tokens) == (7, int, 12)


@pytest.mark.parametrize("lengths", [[], [3, 0], [-2, 3]])
def test_a_layout_of_text_has_no_empty_segments(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="one or more segments, each at least 1, got"):
        Layout.of_text(lengths)


def test_an_unknown_attribute_of_a_pack_is_an_error_that_names_the_way() -> None:
    batch = with_actions()
    message = "^PackedBatch has no field 'depths': a record kind adds a field as an Extra in `extras`"
    with pytest.raises(AttributeError, match=message):
        batch.depths = torch.zeros(3)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"did you mean 'images'\?"):
        batch.image = None  # type: ignore[attr-defined]
    batch.totals = {"targets": 1.0}


def test_copies_of_a_pack_keep_its_fields() -> None:
    batch = with_actions()
    for copy in (batch.to("cpu"), replace(batch, totals={}), pickle.loads(pickle.dumps(batch))):
        actions = copy.extras["actions"]
        assert isinstance(actions, Actions)
        assert torch.equal(actions.values.tensor, torch.tensor([[1.1, 2.2]]))
        assert isinstance(copy.extras["boxes"], Boxes)
    assert batch.to("meta").extras["actions"].values.tensor.is_meta  # type: ignore[attr-defined]
    cast = HalfPrecision("bf16-true").convert_input(batch).extras["actions"]
    assert isinstance(cast, Actions)
    assert cast.values.tensor.dtype == torch.float32


def numbers(batch: PackedBatch, *words: object) -> list[list[float]]:
    return [generator.random(3).tolist() for generator in batch.generators(*words)]


def test_draws_of_a_segment_depend_on_its_sample_alone() -> None:
    batch = replace(
        tiny.pack([("t", 4)], [("t", 5)], [("t", 3)]), segment_sample=torch.tensor([7, 2, 7]), seed=1, epoch=2
    )
    copies = replace(batch, segment_copy=torch.tensor([0, 0, 1]))
    first, second, third = numbers(copies, "noise")
    assert len({tuple(first), tuple(second), tuple(third)}) == 3, "an occurrence of a sample has draws of its own"
    alone = replace(tiny.pack([("t", 5)]), segment_sample=torch.tensor([2]), seed=1, epoch=2)
    assert numbers(alone, "noise") == [second], "whatever shares the pack"
    unknown = numbers(batch, "noise")
    assert unknown[:2] == [first, second], "without copies all are the first"
    assert unknown[2] not in (first, third), "a further segment of the same occurrence has draws of its own"
    assert numbers(copies.to("cpu"), "noise") == [first, second, third]
    for other in (replace(copies, seed=3), replace(copies, epoch=3)):
        assert not np.isin(numbers(other, "noise"), [first, second, third]).any()
    assert not np.isin(numbers(copies, "time"), [first, second, third]).any()
    assert not np.isin(numbers(copies, "noise", 1), [first, second, third]).any()


def test_segments_of_text_have_a_layout() -> None:
    layout = Layout.of_text([3, 2])
    assert layout.cu_seqlens.tolist() == [0, 3, 5]
    assert (layout.cu_seqlens.dtype, layout.max_seqlen, layout.num_segments) == (torch.int32, 3, 2)
    assert V2PE(8).ticks(layout).tolist() == [0, 256, 512, 0, 256]
    assert torch.equal(layout.token_type, one_sequence(torch.arange(5)).layout.token_type)

"""Images with boxes: what a pack gets, and samples that are skipped by one line. Contracts: tests/contracts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from mmcomponents.data.chat.kinds import BoxedImage, Kinds, Sample
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.tokenizer import load_tokenizer
from mmcomponents.data.errors import SampleError
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.media.box_augmentation import BoxAugmentation
from mmcomponents.data.media.images import TiledImage
from mmcomponents.data.media.tiling import Tiling


@pytest.fixture(scope="module")
def renderer() -> SampleRenderer:
    return SampleRenderer(load_tokenizer("byte-level"), 4)


def record(*boxes: list[float], labels: list[int] | None = None, **more: Any) -> dict[str, Any]:
    own = list(range(len(boxes))) if labels is None else labels
    return {"boxes": list(boxes), "labels": own, "size": [40, 20], **more}


def sample(given: dict[str, Any], tiles: int = 1, size: tuple[int, int] = (10, 20), **more: Any) -> Sample:
    return Sample(given, [TiledImage(torch.arange(tiles * 3 * 200.0).view(tiles, 3, *size))], **more)


def test_a_pack_has_boxes_as_shares_of_their_tiles_and_no_tokens(renderer: SampleRenderer) -> None:
    kind = BoxedImage()
    samples = []
    for n, given in enumerate((record([10, 5, 30, 15]), record(), record([0, 0, 40.5, 20], [4, 0, 8, 10]))):
        (segment,) = kind.render(sample(given), renderer)
        segment.key = f"k/{n}"
        samples.append(segment)
    pack = collate(samples, 4, 0, empty=Kinds([kind]).empty())
    assert (pack.num_tokens, pack.num_segments, pack.images.num_tiles) == (0, 3, 3)
    boxes = pack.extras["boxes"]
    assert boxes.cxcywh.tensor.tolist() == [
        [0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0], pytest.approx([0.15, 0.25, 0.1, 0.5])
    ]  # fmt: skip
    assert boxes.label.tolist() == [0, 0, 1]
    assert boxes.tile.tolist() == boxes.segment.tolist() == [0, 2, 2]


def test_images_of_unequal_sizes_tell_their_padding(renderer: SampleRenderer) -> None:
    kind = BoxedImage()
    samples = [*kind.render(sample(record()), renderer), *kind.render(sample(record(), size=(20, 10)), renderer)]
    images = collate(samples, 4, 0).images
    assert images.pixels.shape == (2, 3, 20, 20)
    assert images.valid_hw.tolist() == [[10, 20], [20, 10]]


def test_augmentation_is_for_training_only(renderer: SampleRenderer) -> None:
    kind = BoxedImage(augmentation=BoxAugmentation(flip=1.0, crop=0.0, scale=1.0))
    given = record([0, 0, 10, 20])
    (plain,) = kind.render(sample(given), renderer)
    (flipped,) = kind.render(sample(given, is_training=True, key=(0, 1, 2, 0)), renderer)
    assert plain.extras["boxes"].cxcywh.tensor.tolist() == [[0.125, 0.5, 0.25, 1.0]]
    assert flipped.extras["boxes"].cxcywh.tensor.tolist() == [[0.875, 0.5, 0.25, 1.0]]
    assert torch.equal(flipped.images[0].pixels, plain.images[0].pixels.flip(-1))


def test_a_prompt_is_the_image_alone(renderer: SampleRenderer) -> None:
    kind, given = BoxedImage(), record([10, 5, 30, 15])
    (prompt,) = kind.prompts(sample(given), renderer)
    assert kind.turns(given) == 1
    assert (prompt.question, list(prompt.segment.input_ids)) == ("", [])
    assert prompt.answer == {"boxes": [[10, 5, 30, 15]], "labels": [0], "size": [40, 20]}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (record([0, 0, 0, 5]), r"box 1 of 1 is empty: \[0, 0, 0, 5\]"),
        (record([0, 0, 5, 5], [30, 0, 42, 5]), r"box 2 of 2 is outside of the image of 40 x 20: \[30, 0, 42, 5\]"),
        (record([0, -3, 5, 5]), "box 1 of 1 is outside of the image"),
        (record([0, 0, 5]), r"box 1 must be \[left, top, right, bottom\], not \[0, 0, 5\]"),
        (record([0, 0, 5, float("nan")]), "box 1 must be"),
        (record([0, 0, 5, 5], labels=[]), "a label for each box: 1 boxes, 0 labels"),
        (record([0, 0, 5, 5], labels=[3]), r"the class 3 is none of the 3 of the run \(num_classes\)"),
        (record([0, 0, 5, 5], labels=[-1]), "labels must be numbers of classes from 0 on, not -1"),
        (record(*[[0, 0, 5, 5]] * 3), r"3 boxes are more than the 2 that the run finds \(max_boxes\)"),
        (record([0, 0, 5, 5], areas=[]), r'"areas" must have the area of each of 1 boxes in pixels, not \[\]'),
        (record([0, 0, 5, 5], areas=[-1]), '"areas" must have'),
        (record(crowds=[{"box": [0, 0, 5], "label": 0, "area": 9}]), '"crowds" must be'),
        (record(crowds={"box": [0, 0, 5, 5]}), '"crowds" must be'),
        ({"boxes": [], "labels": []}, r"\"size\" must be \[width, height\] in pixels, not None"),
    ],
)
def test_samples_that_are_skipped(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SampleError, match=said):
        Kinds([BoxedImage(num_classes=3, max_boxes=2)]).of(given)


def test_more_images_or_tiles_are_refused(renderer: SampleRenderer) -> None:
    with pytest.raises(SampleError, match="boxes are of one image, and the sample has 0"):
        BoxedImage().render(Sample(record()), renderer)
    with pytest.raises(SampleError, match=r"an image of one tile, and it has 3: set data\.images\.max_tiles to 1"):
        BoxedImage().render(sample(record(), tiles=3, is_training=True), renderer)


def test_a_picture_of_another_size_is_refused(renderer: SampleRenderer) -> None:
    (tile,) = renderer.tile([Image.new("RGB", (30, 20))], Tiling(max_tiles=1))
    assert tile.size == (30, 20)
    told = "its boxes are of an image of 40 x 20 and the file has 30 x 20"
    for ask in (BoxedImage().render, BoxedImage().prompts):
        with pytest.raises(SampleError, match=told):
            ask(Sample(record([0, 0, 5, 5]), [tile]), renderer)
    (tile,) = renderer.tile([Image.new("RGB", (40, 20))], Tiling(max_tiles=1))
    assert BoxedImage().prompts(Sample(record([0, 0, 5, 5]), [tile]), renderer)


def test_areas_and_crowds_are_told_and_not_trained(renderer: SampleRenderer) -> None:
    crowd = {"box": [0, 0, 20, 20], "label": 1, "area": 77}
    given = record([10, 5, 30, 15], areas=[42.5], crowds=[crowd])
    (segment,) = BoxedImage().render(sample(given), renderer)
    assert segment.extras["boxes"].label.tolist() == [0]
    (prompt,) = BoxedImage().prompts(sample(given), renderer)
    assert (prompt.answer["areas"], prompt.answer["crowds"]) == ([42.5], [crowd])

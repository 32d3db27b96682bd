from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from data.conftest import png, record
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.tokenizer import load_tokenizer
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.loading.dataset import PackDataset
from mmcomponents.data.loading.opening import PackSettings, open_packs
from mmcomponents.data.media.augmentation import JpegRecompression
from mmcomponents.data.media.images import TiledImage
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.data.packing.pack_plan import Budgets, Pack


@pytest.fixture
def index(handwriting: Path) -> Index:
    return Index.open(sorted(handwriting.glob("train-*.tar")), load_tokenizer(handwriting / "tokenizer"))


def dataset_of(index: Index, handwriting: Path, **options: Any) -> PackDataset:
    renderer = SampleRenderer(load_tokenizer(handwriting / "tokenizer"), 4, Tiling(1, 4, 28))
    return open_packs(index, renderer, PackSettings(Budgets(1500, 16), **options))[0]


def test_packs_are_what_was_planned(index: Index, handwriting: Path) -> None:
    dataset = dataset_of(index, handwriting)
    planned = dataset.plan.pack(3)
    batch = dataset[3]
    assert tuple(batch.segment_sample.tolist()) == planned.samples
    assert batch.keys == [index.name(n) for n in planned.samples]
    assert batch.num_tokens <= 1500
    assert batch.images is not None
    assert len(batch.images.pixels) <= 16
    assert len(dataset[None].keys[0]) == 0


def test_a_draw_depends_on_seed_epoch_and_sample_alone(index: Index, handwriting: Path) -> None:
    dataset = dataset_of(index, handwriting, delta_log2=[1, 3, 5, 7], seed=1)
    samples = tuple(range(12))
    together = dataset[Pack(0, 2, samples)].layout.delta_log2
    assert together is not None
    alone = [dataset[Pack(9, 2, (sample,))].layout.delta_log2 for sample in samples]
    assert together.tolist() == torch.cat([k for k in alone if k is not None]).tolist()
    assert set(together.tolist()) <= {1, 3, 5, 7}
    later = dataset[Pack(0, 3, samples)].layout.delta_log2
    assert later is not None
    assert later.tolist() != together.tolist()
    other = dataset_of(index, handwriting, delta_log2=[1, 3, 5, 7], seed=2)[Pack(0, 2, samples)].layout.delta_log2
    assert other is not None
    assert other.tolist() != together.tolist()


def test_each_image_has_draws_of_its_own(write_shard: Callable[..., Path], tokenizer: PreTrainedTokenizerFast) -> None:
    """JPEG qualities depend on the epoch, the copy and the image; V2PE's delta is drawn for each image."""
    shard = write_shard([(record("<image>" * 8), [png(56, 56)] * 8)])
    renderer = SampleRenderer(tokenizer, 4, Tiling(1, 32, 28))
    settings = PackSettings(Budgets(1500), jpeg=JpegRecompression(1, 100), delta_log2=list(range(9)))
    dataset = open_packs(Index.open([shard], tokenizer), renderer, settings)[0]

    def images(epoch: int = 0, copy: int = 0) -> list[TiledImage]:
        return list(dataset.render(0, epoch, copy)[0].images)

    first, again = images(), images()
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(first, again, strict=True))
    for other in (first[1], images(epoch=1)[0], images(copy=1)[0]):
        assert other.pixels.shape == first[0].pixels.shape
        assert not torch.equal(other.pixels, first[0].pixels)
    assert len({image.delta_log2 for image in first}) > 1


@pytest.mark.parametrize("deltas", [[], [9], [-1, 2]])
def test_impossible_deltas_are_refused(index: Index, handwriting: Path, deltas: list[int]) -> None:
    with pytest.raises(ValueError, match="delta_log2"):
        dataset_of(index, handwriting, delta_log2=deltas)


def test_workers_that_are_not_forked(index: Index, handwriting: Path) -> None:
    dataset = dataset_of(index, handwriting, delta_log2=[0, 1], jpeg=JpegRecompression())
    planned = [dataset.plan.pack(number) for number in range(2)]
    loader = DataLoader(
        dataset, batch_size=None, sampler=planned, num_workers=1, multiprocessing_context="spawn", collate_fn=_same
    )
    for pack, batch in zip(planned, loader, strict=True):
        assert torch.equal(batch.images.pixels, dataset[pack].images.pixels)  # type: ignore[union-attr]
        assert batch.keys == dataset[pack].keys


def _same(batch: Any) -> Any:
    return batch


def test_draws_inside_an_objective_depend_on_the_occurrence_alone(index: Index, handwriting: Path) -> None:
    dataset = dataset_of(index, handwriting, seed=4)
    together = [generator.random() for generator in dataset[Pack(0, 2, (3, 5, 3), (0, 0, 1))].generators("noise")]
    assert len(set(together)) == 3
    for value, sample, copy in zip(together, (3, 5, 3), (0, 0, 1), strict=True):
        (alone,) = dataset[Pack(9, 2, (sample,), (copy,))].generators("noise")
        assert alone.random() == value
    (later,) = dataset[Pack(0, 3, (5,))].generators("noise")
    (seeded,) = dataset_of(index, handwriting, seed=5)[Pack(0, 2, (5,))].generators("noise")
    assert len({together[1], later.random(), seeded.random()}) == 3

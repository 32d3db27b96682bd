"""Creation of a dataset of planned packs from an index and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.loading.dataset import PackDataset
from mmcomponents.data.media.augmentation import JpegRecompression
from mmcomponents.data.media.frames import DrawnFrames, FrameDraw
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.data.packing.answer_pairs import PairsOnce
from mmcomponents.data.packing.base import Packer
from mmcomponents.data.packing.mixture import Mixture, TokenShare
from mmcomponents.data.packing.pack_plan import BLOCK, Budgets, PackPlan
from mmcomponents.data.packing.sizes import Sizes
from mmcomponents.data.packing.source_options import SourceOptions, by_number, repeats
from mmcomponents.data.storage import redact


@dataclass(frozen=True)
class PackSettings:
    """Settings for packing the samples of an index.

    Attributes:
        budgets: Token and tile budgets of a pack.
        seed: Random seed.
        block: Number of samples that are packed together.
        shuffle: Whether to shuffle the samples.
        frames: Frame sampling of videos.
        sources: Options of single sources, by name.
        share: Ratio of text tokens to multimodal tokens; None: as in the data.
        delta_log2: V2PE's choices of k; None: the position encoding's own delta.
        jpeg: JPEG re-compression of tiles; None: none.
        packer: Distributes samples over packs; None: `BalancedPacker`.
        is_training: Whether record kinds may augment samples.
    """

    budgets: Budgets
    seed: int = 0
    block: int = BLOCK
    shuffle: bool = True
    frames: FrameDraw = field(default_factory=DrawnFrames)
    sources: Mapping[str, SourceOptions] = field(default_factory=dict)
    share: TokenShare | None = None
    delta_log2: Sequence[int] | None = None
    jpeg: JpegRecompression | None = None
    packer: Packer | None = None
    is_training: bool = False


def source_tilings(options: Mapping[int, SourceOptions], tiling: Tiling) -> dict[int, Tiling]:
    """Returns the tilings of the sources that have their own limit of tiles, by source number."""
    return {
        number: replace(tiling, min_tiles=min(tiling.min_tiles, option.max_tiles), max_tiles=option.max_tiles)
        for number, option in options.items()
        if option.max_tiles is not None
    }


def open_packs(index: Index, renderer: SampleRenderer, settings: PackSettings) -> tuple[PackDataset, Mixture]:
    """Plans the packs of an index.

    Returns:
        The dataset and its mixture.

    Raises:
        DataError: No sample can be used, a source is unknown, or text or multimodal samples are missing for the token
            share.
    """
    options = by_number(settings.sources, index.sources)
    sizes = Sizes(renderer, settings.frames, source_tilings(options, renderer.tiling), settings.seed)
    mixture = Mixture(
        index,
        sizes,
        settings.budgets,
        settings.seed,
        repeats(options, _samples(index) if options else {}),
        settings.share,
        settings.block,
        settings.shuffle,
    )
    plan = PackPlan(mixture, settings.budgets, settings.seed, settings.shuffle, settings.packer)
    no_jpeg = [number for number, option in options.items() if not option.jpeg]
    packs = PackDataset(
        index, plan, sizes, settings.delta_log2, settings.jpeg, no_jpeg, is_training=settings.is_training
    )
    return packs, mixture


def open_pairs(index: Index, renderer: SampleRenderer, settings: PackSettings) -> tuple[PackDataset, PairsOnce]:
    """Plans the packs of an index's pairs, each once and in order, without augmentation.

    Args:
        index: Index of the samples; those that are not pairs are left out.
        renderer: Renderer of the samples.
        settings: Only the budgets, block, frames and limits of tiles of the sources are used.

    Returns:
        The dataset and its pairs.

    Raises:
        DataError: The index has no pair, or a source is unknown.
    """
    options = by_number(settings.sources, index.sources)
    sizes = Sizes(renderer, settings.frames, source_tilings(options, renderer.tiling), settings.seed)
    pairs = PairsOnce(index, sizes, settings.budgets, settings.block)
    return PackDataset(index, PackPlan(pairs, settings.budgets, settings.seed, False, settings.packer), sizes), pairs


def check_tiles(index: Index, tile_size: int, tokens_per_tile: int) -> None:
    """Checks that shards were converted for the tiles of the run, by which the lengths of samples were limited.

    Raises:
        DataError: A shard was converted for others.
    """
    for shard, tile in zip(index.shards, index.tiles, strict=True):
        if tile is not None and tile != [tile_size, tokens_per_tile]:
            raise DataError(
                f"{redact(shard)} was converted for tiles of {tile[0]} pixels with {tile[1]} visual tokens, the run has"
                f" tiles of {tile_size} pixels with {tokens_per_tile}: set data.images.tile_size and"
                " data.tokens_per_tile, convert it again with --tile_size and --tokens_per_tile, or accept it by"
                " `mmcomponents data index`"
            )


def check_text_alone(index: Index, part: str) -> None:
    """Checks that the data of a model without a vision encoder have no images.

    Raises:
        DataError: Some samples have images or videos.
    """
    every = (index.columns(shard) for shard in range(len(index.shards)))
    multimodal = sum(int(((columns.images > 0) | (columns.videos > 0)).sum()) for columns in every)
    if multimodal:
        raise DataError(
            f"{multimodal} of the {len(index)} {part} samples have images and the model has no vision encoder"
        )


def _samples(index: Index) -> dict[int, int]:
    """Counts the samples of each source."""
    total = np.zeros(len(index.sources) + 1, np.int64)
    for shard in range(len(index.shards)):
        found = np.bincount(index.columns(shard).source, minlength=len(total))
        total += found[: len(total)]
    return {number: int(count) for number, count in enumerate(total.tolist())}

"""Opening the data of a run: from shards and settings to a dataset of planned packs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mmcomponents.data.augment import JpegRecompression
from mmcomponents.data.dataset import PackDataset
from mmcomponents.data.errors import DataError
from mmcomponents.data.frames import DrawnFrames, FrameDraw
from mmcomponents.data.index import Index
from mmcomponents.data.mixture import Mixture, TokenShare
from mmcomponents.data.pairs import PairsOnce
from mmcomponents.data.plan import BLOCK, Budgets, PackPlan
from mmcomponents.data.samples import SampleRenderer
from mmcomponents.data.sizes import Sizes
from mmcomponents.data.sources import SourceOptions, by_number, repeats
from mmcomponents.data.tiling import Tiling
from mmcomponents.data.verdicts import Verdicts


@dataclass(frozen=True)
class PackSettings:
    """How the samples of an index become packs.

    Attributes:
        budgets: Of a pack.
        seed: Of shuffling and drawing.
        block: Samples that are packed together.
        shuffle: Whether the order is drawn.
        frames: Which frames of a video are looked at.
        sources: What is different for single sources, by name.
        share: In which ratio text and multimodal tokens stand; None: as it comes.
        delta_log2: V2PE's choices of k; None: the position part's own delta.
        jpeg: JPEG re-compression of tiles; None: none.
        verdicts: The positive and the negative word of critic samples; None: the samples are ordinary ones.
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
    verdicts: tuple[str, str] | None = None


def source_tilings(options: Mapping[int, SourceOptions], tiling: Tiling) -> dict[int, Tiling]:
    """How images of sources with a tile budget of their own are cut."""
    return {
        number: replace(tiling, min_tiles=min(tiling.min_tiles, option.max_tiles), max_tiles=option.max_tiles)
        for number, option in options.items()
        if option.max_tiles is not None
    }


def open_packs(index: Index, renderer: SampleRenderer, settings: PackSettings) -> tuple[PackDataset, Mixture]:
    """Plans the packs of an index.

    Returns:
        The packs, and what their epochs consist of.

    Raises:
        DataError: No sample is left, a source is unknown, a side of the token share has no samples, or a verdict is no
            single token.
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
    plan = PackPlan(mixture, settings.budgets, settings.seed, settings.shuffle)
    no_jpeg = [number for number, option in options.items() if not option.jpeg]
    verdicts = None if settings.verdicts is None else Verdicts.of(settings.verdicts, renderer.tokenizer)
    return PackDataset(index, plan, sizes, settings.delta_log2, settings.jpeg, no_jpeg, verdicts), mixture


def open_pairs(index: Index, renderer: SampleRenderer, settings: PackSettings) -> tuple[PackDataset, PairsOnce]:
    """Plans the packs of an index's pairs, each once, in order and as they are: nothing is drawn.

    Args:
        index: The samples; those that are no pairs are left out.
        renderer: What becomes of a sample.
        settings: Budgets, block, frames and the tile budgets of sources count; the rest is for training.

    Returns:
        The packs, and which pairs they hold.

    Raises:
        DataError: There is no pair, or a source is unknown.
    """
    options = by_number(settings.sources, index.sources)
    sizes = Sizes(renderer, settings.frames, source_tilings(options, renderer.tiling), settings.seed)
    pairs = PairsOnce(index, sizes, settings.budgets, settings.block)
    return PackDataset(index, PackPlan(pairs, settings.budgets, settings.seed, shuffle=False), sizes), pairs


def check_text_alone(index: Index, part: str) -> None:
    """Makes sure that a model without a vision encoder gets no pictures.

    Raises:
        DataError: Some samples have images or videos.
    """
    every = (index.rows(shard) for shard in range(len(index.shards)))
    pictured = sum(int(((rows.images > 0) | (rows.videos > 0)).sum()) for rows in every)
    if pictured:
        raise DataError(
            f"{pictured} of the {len(index)} {part} samples have images and the model has no vision encoder"
        )


def _samples(index: Index) -> dict[int, int]:
    """Samples of each source."""
    total = np.zeros(len(index.sources) + 1, np.int64)
    for shard in range(len(index.shards)):
        found = np.bincount(index.rows(shard).source, minlength=len(total))
        total += found[: len(total)]
    return {number: int(count) for number, count in enumerate(total.tolist())}

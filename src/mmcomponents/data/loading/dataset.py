"""Map-style dataset from planned packs to `PackedBatch`."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from mmcomponents.batch import PackedBatch
from mmcomponents.data.chat.verdicts import Verdicts
from mmcomponents.data.errors import SampleError
from mmcomponents.data.format.records import clips
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.loading.collation import RenderedSample, collate, steps_of
from mmcomponents.data.loading.stored_logps import StoredLogps
from mmcomponents.data.media.augmentation import JpegRecompression
from mmcomponents.data.media.video import read_video
from mmcomponents.data.packing.pack_plan import Pack, PackPlan
from mmcomponents.data.packing.sizes import Sizes, draw_key

_JPEG, _DELTA = 1, -1  # seed components that separate these random draws from each other and from those of frames


class PackDataset(Dataset[PackedBatch]):
    """Reads packs, given by number or as planned elsewhere.

    A sample that cannot be used is skipped and listed in `batch.refused`; the rest of its pack is kept. Each random
    draw depends only on (seed, epoch, sample, number of earlier occurrences of the sample in the epoch).

    Args:
        index: Index of the samples.
        plan: Assignment of samples to packs.
        sizes: Renderer, tilings and frame sampling of the samples.
        delta_log2: V2PE's choices of k, one of which is drawn for each image. None: the position encoding's own delta.
        jpeg: JPEG re-compression of the tiles of images, not of video frames; None: none.
        no_jpeg: Numbers of the sources whose images are not re-compressed.
        verdicts: The two verdict words, if all samples are critic samples; None for ordinary samples.

    Attributes:
        reference: Stored log-probabilities of the pairs' answers; None if not used.
    """

    def __init__(
        self,
        index: Index,
        plan: PackPlan,
        sizes: Sizes,
        delta_log2: Sequence[int] | None = None,
        jpeg: JpegRecompression | None = None,
        no_jpeg: Collection[int] = (),
        verdicts: Verdicts | None = None,
    ) -> None:
        if delta_log2 is not None and (not delta_log2 or not all(0 <= k <= 8 for k in delta_log2)):
            raise ValueError(f"delta_log2 {list(delta_log2)} must be values of k from 0 to 8, delta = 2**-k")
        self.index, self.plan, self.sizes, self.renderer = index, plan, sizes, sizes.renderer
        self.delta_log2 = None if delta_log2 is None else list(delta_log2)
        self.jpeg, self.no_jpeg, self.verdicts = jpeg, frozenset(no_jpeg), verdicts
        self.reference: StoredLogps | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for a worker: without the plan, since workers receive planned packs."""
        return self.__dict__ | {"plan": None}

    def __getitem__(self, pack: int | Pack | None) -> PackedBatch:
        """Returns one batch.

        Args:
            pack: Number of the pack, or the planned pack itself, which needs no plan (as in the workers of a loader).
                None: the pack without samples, for a rank that has no data left while others do.
        """
        planned = self.plan.pack(pack) if isinstance(pack, int) else pack
        samples: list[RenderedSample] = []
        refused = []
        if planned is not None:
            for place, number in enumerate(planned.samples):
                try:
                    rendered = self.render(number, planned.epoch, planned.copies[place] if planned.copies else 0)
                    if planned.tokens:
                        _check_length(rendered, planned.tokens[place])
                    samples += rendered
                except SampleError as error:
                    refused.append(f"{self.index.name(number)}: {error}")
                except Exception as error:
                    error.add_note(f"while reading the sample {self.index.name(number)}")
                    raise
        batch = collate(samples, self.renderer.tokens_per_tile, self.renderer.pad_id, refused)
        if self.verdicts is not None and batch.steps is None:
            batch.steps = steps_of()  # a pack without samples has zero steps, which differs from having no verdicts
        return batch

    def render(self, sample: int, epoch: int = 0, copy: int = 0) -> list[RenderedSample]:
        """Reads and renders one sample.

        Args:
            sample: Number of the sample.
            epoch: Number of the epoch.
            copy: Number of earlier occurrences of the sample in the epoch.

        Returns:
            One segment, or two for a pair of answers.

        Raises:
            SampleError: The sample cannot be used.
        """
        stored, seed = self.index.read(sample), self.sizes.seed
        record, truth = (stored.record, None) if self.verdicts is None else self.verdicts.hide(stored.record)
        source = self.index.source(sample)
        key = (seed, epoch, sample, copy)

        def recompress(image: int, tiles: list[Image.Image]) -> list[Image.Image]:
            assert self.jpeg is not None
            return self.jpeg(tiles, (*key, image, _JPEG))

        augment = recompress if self.jpeg is not None and source not in self.no_jpeg else None
        images = self.renderer.decode(stored.images, self.sizes.tilings.get(source), augment)
        videos = []
        for number, (video, clip) in enumerate(
            zip(stored.videos, clips(stored.record, len(stored.videos)), strict=True)
        ):
            frames = read_video(video, self.sizes.frames.sampling(draw_key(*key, number)), clip)
            videos.append(self.renderer.tile_frames(frames))
        chats, order = self.renderer.render(record, images, videos)
        if self.delta_log2 is not None:
            draw = random.Random(draw_key(*key, _DELTA))  # seeding a numpy generator takes longer than reading a sample
            for image in order:
                image.delta_log2 = draw.choice(self.delta_log2)
        name = self.index.name(sample)
        if self.verdicts is not None and truth is not None:
            chat = self.verdicts.supervise(chats[0], truth)
            return [RenderedSample(chat, order, sample, source, name, verdicts=truth)]
        if len(chats) == 1:
            return [RenderedSample(chats[0], order, sample, source, name)]
        chosen, rejected = chats
        first, second = (None, None) if self.reference is None else self.reference.of(sample)
        return [
            RenderedSample(chosen, order, sample, source, name, "chosen", first),
            RenderedSample(rejected, order, sample, source, name, "rejected", second),
        ]


def _check_length(rendered: Sequence[RenderedSample], planned: int) -> None:
    length = sum(len(segment.chat.input_ids) for segment in rendered)
    if length != planned:
        raise SampleError(
            f"the sample has {length} tokens, its index has {planned}: the shard changed after indexing, or another"
            " version indexed it; run `mmcomponents data index` again"
        )

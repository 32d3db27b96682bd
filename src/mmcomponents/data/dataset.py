"""Packs, read when they are asked for: a map from a planned pack to a `PackedBatch`."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from mmcomponents.batch import PackedBatch
from mmcomponents.data.augment import JpegRecompression
from mmcomponents.data.collate import RenderedSample, collate, steps_of
from mmcomponents.data.errors import SampleError
from mmcomponents.data.index import Index
from mmcomponents.data.plan import Pack, PackPlan
from mmcomponents.data.records import clips
from mmcomponents.data.reference_logps import StoredLogps
from mmcomponents.data.sizes import Sizes, draw_key
from mmcomponents.data.verdicts import Verdicts
from mmcomponents.data.video import read_video

_JPEG, _DELTA = 1, -1  # tell these draws from those of frames, and from one another


class PackDataset(Dataset[PackedBatch]):
    """Reads packs by their number, or as planned elsewhere.

    A sample that cannot be used is left out and named in `batch.refused`; the rest of its pack stays. Each random draw
    depends on (seed, epoch, sample, how often the sample came before) and nothing else.

    Args:
        index: Where the samples are.
        plan: Which samples share a pack.
        sizes: What becomes of a sample, how it is cut, and which frames of a video are looked at.
        delta_log2: V2PE's choices of k; one is drawn for each image. None: the position part's own delta.
        jpeg: What is done to the tiles of images, never to frames; None: nothing.
        no_jpeg: Numbers of the sources to which it is not done.
        verdicts: The two words of critic samples, which all samples then are; None: they are ordinary ones.

    Attributes:
        reference: Stored log-probabilities of the pairs' answers; None: none are used.
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
            raise ValueError(f"delta_log2 {list(delta_log2)} is no choice of k from 0 to 8, delta = 2**-k")
        self.index, self.plan, self.sizes, self.renderer = index, plan, sizes, sizes.renderer
        self.delta_log2 = None if delta_log2 is None else list(delta_log2)
        self.jpeg, self.no_jpeg, self.verdicts = jpeg, frozenset(no_jpeg), verdicts
        self.reference: StoredLogps | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a worker gets: all but the plan, since it is told which samples to read."""
        return self.__dict__ | {"plan": None}

    def __getitem__(self, pack: int | Pack | None) -> PackedBatch:
        """Returns one pack.

        Args:
            pack: Its number, or the pack itself (then nothing is planned here: the workers of a loader are told).
                None: the pack without samples, which keeps ranks in step.
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
            batch.steps = steps_of()  # a pack without samples has no step, which is not the same as no verdicts
        return batch

    def render(self, sample: int, epoch: int = 0, copy: int = 0) -> list[RenderedSample]:
        """Reads and renders one sample: one segment, or two for a pair of answers.

        Args:
            sample: Its number.
            epoch: Number of the epoch.
            copy: How many times the sample came up in the epoch before.

        Raises:
            SampleError: It cannot be used.
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
        films = []
        for number, (film, clip) in enumerate(
            zip(stored.videos, clips(stored.record, len(stored.videos)), strict=True)
        ):
            frames = read_video(film, self.sizes.frames.sampling(draw_key(*key, number)), clip)
            films.append(self.renderer.tile_frames(frames))
        chats, order = self.renderer.render(record, images, films)
        if self.delta_log2 is not None:
            draw = random.Random(draw_key(*key, _DELTA))  # numpy takes longer to seed a generator than to read a sample
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
            f"it has {length} tokens and the index says {planned}: the shard has changed since, or was indexed by"
            " another version; run `mmcomponents data index` again"
        )

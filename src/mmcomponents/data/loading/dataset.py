"""Map-style dataset from planned packs to `PackedBatch`."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from mmcomponents.batch import Exact, PackedBatch, Pairs
from mmcomponents.data.chat.kinds import RecordKind, Sample, kind_name, render
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.errors import SampleError
from mmcomponents.data.format.records import clips
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.loading.numbered_packs import Packs
from mmcomponents.data.loading.stored_logps import StoredLogps
from mmcomponents.data.media.augmentation import JpegRecompression
from mmcomponents.data.media.video import read_video
from mmcomponents.data.packing.pack_plan import Bookmark, Pack, PackPlan
from mmcomponents.data.packing.sizes import Sizes, draw_key

_JPEG, _DELTA = 1, -1  # seed components that separate these random draws from each other and from those of frames


class PackDataset(Packs):
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
        is_training: Whether record kinds may augment samples.

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
        is_training: bool = False,
    ) -> None:
        check_delta_log2(delta_log2)
        self.index, self.plan, self.sizes, self.renderer = index, plan, sizes, sizes.renderer
        self.delta_log2 = None if delta_log2 is None else list(delta_log2)
        self.jpeg, self.no_jpeg, self.is_training = jpeg, frozenset(no_jpeg), is_training
        self.reference: StoredLogps | None = None
        self.samples, self.source_names, self.capacity = len(index), index.sources, plan.budgets.tokens

    def __len__(self) -> int:
        return self.plan.epoch_length()

    def item(self, number: int) -> Pack:
        """Returns a planned pack, since workers have no plan."""
        return self.plan.pack(number)

    def one_pass(self) -> int:
        """Counts the packs of the first epoch exactly."""
        return self.plan.packs_in_epoch(0)

    def fingerprint(self) -> str:
        """Returns that of the plan."""
        return self.plan.fingerprint()

    def bookmark(self, number: int) -> tuple[int, ...]:
        """Returns the start of the block of a pack."""
        return tuple(self.plan.bookmark(number))

    def open_at(self, bookmark: tuple[int, ...]) -> None:
        """Continues planning from the start of a block."""
        self.plan.open_at(Bookmark(*bookmark))

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
        return collate(
            samples,
            self.renderer.tokens_per_tile,
            self.renderer.pad_id,
            refused,
            self.index.kinds.empty(),
            self.sizes.seed,
            0 if planned is None else planned.epoch,
        )

    def render(self, sample: int, epoch: int = 0, copy: int = 0) -> list[RenderedSample]:
        """Reads and renders one sample.

        Args:
            sample: Number of the sample.
            epoch: Number of the epoch.
            copy: Number of earlier occurrences of the sample in the epoch.

        Returns:
            Its segments: one, or two for a pair of answers, or as many as its kind makes.

        Raises:
            SampleError: The sample cannot be used.
        """
        return self.rendered(*self.read(sample, epoch, copy))

    def read(self, sample: int, epoch: int = 0, copy: int = 0) -> tuple[RecordKind, Sample]:
        """Reads one sample and prepares its images; arguments and errors are those of `render`."""
        stored, source = self.index.read(sample), self.index.source(sample)
        key = (self.sizes.seed, epoch, sample, copy)

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
        name = self.index.name(sample)
        training, files = self.is_training, stored.images
        read = Sample(stored.record, images, videos, stored.members, sample, name, key, training, files)
        return stored.kind, read

    def rendered(self, kind: RecordKind, read: Sample) -> list[RenderedSample]:
        """Renders a sample that was read; see `render`."""
        segments = render(kind, read, self.renderer)
        if self.delta_log2 is not None:
            draw = random.Random(_key(read, _DELTA))  # a numpy generator takes longer than reading a sample
            for image in {id(image): image for segment in segments for image in segment.images}.values():
                image.delta_log2 = draw.choice(self.delta_log2)
        source, copy = self.index.source(read.number), read.key[-1]
        for segment in segments:
            segment.sample, segment.source, segment.key, segment.copy = read.number, source, read.name, copy
            segment.kind = kind_name(kind)
            pairs = segment.extras.get("pairs")
            if self.reference is not None and isinstance(pairs, Pairs):
                logps = torch.tensor([self.reference.of(read.number)], dtype=torch.float32)
                segment.extras["pairs"] = replace(pairs, reference_logps=Exact(logps))
        return segments


def check_delta_log2(choices: Sequence[int] | None) -> None:
    """Checks the choices of k.

    Raises:
        ValueError: There are none, or one is not from 0 to 8.
    """
    if choices is not None and not (isinstance(choices, Sequence) and choices and {*choices} <= {*range(9)}):
        raise ValueError(f"data.delta_log2 {choices!r} must be values of k from 0 to 8, delta = 2**-k")


def _key(read: Sample, thing: int) -> str:
    seed, epoch, sample, copy = read.key
    return draw_key(seed, epoch, sample, copy, thing)


def _check_length(rendered: Sequence[RenderedSample], planned: int) -> None:
    length = sum(len(segment.input_ids) for segment in rendered)
    if length != planned:
        raise SampleError(
            f"the sample has {length} tokens, its index has {planned}: the shard changed after indexing, or another"
            f" version, or the record kind {rendered[0].kind} with other arguments, indexed it; run `mmcomponents data"
            " index` again"
        )

"""Packs, read when they are asked for: a map from a planned pack to a `PackedBatch`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from mmcomponents.batch import PackedBatch
from mmcomponents.data.collate import RenderedSample, collate
from mmcomponents.data.errors import SampleError
from mmcomponents.data.index import Index
from mmcomponents.data.plan import Pack, PackPlan
from mmcomponents.data.samples import SampleRenderer


class PackDataset(Dataset[PackedBatch]):
    """Reads packs by their number, or as planned elsewhere.

    A sample that cannot be used is left out and named in `batch.refused`; the rest of its pack stays.

    Args:
        index: Where the samples are.
        plan: Which samples share a pack.
        renderer: What becomes of a sample.
        seed: Of the random draws, each of which depends on (seed, epoch, sample) and nothing else.
        delta_log2: V2PE's choices of k; one is drawn for each image. None: the position part's own delta.
    """

    def __init__(
        self,
        index: Index,
        plan: PackPlan,
        renderer: SampleRenderer,
        seed: int = 0,
        delta_log2: Sequence[int] | None = None,
    ) -> None:
        if delta_log2 is not None and (not delta_log2 or not all(0 <= k <= 8 for k in delta_log2)):
            raise ValueError(f"delta_log2 {list(delta_log2)} is no choice of k from 0 to 8, delta = 2**-k")
        self.index, self.plan, self.renderer, self.seed = index, plan, renderer, seed
        self.delta_log2 = None if delta_log2 is None else np.array(delta_log2)

    def __getitem__(self, pack: int | Pack | None) -> PackedBatch:
        """Returns one pack.

        Args:
            pack: Its number, or the pack itself (then nothing is planned here: the workers of a loader are told).
                None: the pack without samples, which keeps ranks in step.
        """
        planned = self.plan.pack(pack) if isinstance(pack, int) else pack
        samples, refused = [], []
        for number in planned.samples if planned is not None else ():
            assert planned is not None
            try:
                samples.append(self.render(number, planned.epoch))
            except SampleError as error:
                refused.append(f"{self.index.name(number)}: {error}")
        return collate(samples, self.renderer.tokens_per_tile, self.renderer.pad_id, refused)

    def render(self, sample: int, epoch: int) -> RenderedSample:
        """Reads and renders one sample.

        Raises:
            SampleError: It cannot be used.
        """
        if sample in self.index.problems:
            raise SampleError(self.index.problems[sample])
        record, files = self.index.read(sample)
        images = self.renderer.decode(files)
        if self.delta_log2 is not None:
            draws = np.random.default_rng((self.seed, epoch, sample)).choice(self.delta_log2, len(images))
            for image, k in zip(images, draws.tolist(), strict=True):
                image.delta_log2 = k
        chat = self.renderer.chat(record["messages"], images)
        return RenderedSample(chat, images, sample, int(self.index.source[sample]), self.index.name(sample))

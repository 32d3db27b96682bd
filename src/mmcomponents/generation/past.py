"""State of incremental decoding: key-value cache and last positions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mmcomponents.batch import IGNORE, Layout, PackedBatch, TokenType
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.cache import KVCache


@dataclass
class Past:
    """Cached state of the segments that are being decoded.

    Attributes:
        cache: Keys and values.
        last_ticks: `[S]` position of the last cached token of each segment; None before the first call or without
            positions.
    """

    cache: KVCache = field(default_factory=KVCache)
    last_ticks: Tensor | None = None

    def follow(self, batch: PackedBatch) -> PackedBatch:
        """Returns the batch with positions that continue those of the cached tokens of each segment."""
        if self.cache.is_empty:
            return batch
        layout = batch.layout
        lengths = torch.tensor(self.cache.lengths, device=layout.cu_seqlens.device) + layout.cu_seqlens.diff()
        return replace(batch, layout=replace(layout, last_ticks=self.last_ticks, prefill_len=lengths))

    def advance(self, model: MultimodalModel, batch: PackedBatch) -> None:
        """Stores the last positions of a batch that the model has processed."""
        if model.position is not None:
            layout = batch.layout
            self.last_ticks = model.position.ticks(layout)[layout.cu_seqlens[1:].long() - 1]

    def fork(self) -> Past:
        """Returns a copy that shares nothing with this one, so that a prefix can be continued in several ways."""
        return Past(self.cache.fork(), None if self.last_ticks is None else self.last_ticks.clone())

    def one_more(
        self, batch: PackedBatch, tokens: list[int], kept: list[int], token_type: TokenType = TokenType.TEXT
    ) -> PackedBatch:
        """Returns the batch with one new token for each kept segment.

        Args:
            batch: The last batch that the model has processed.
            tokens: New token of each kept segment.
            kept: Segments of `batch`, ascending; the others are removed from the cache.
            token_type: Type of the new tokens, by which layers may route them: `IMAGE_GEN` for those of a picture that
                is being made. `IMAGE` is for positions that point to visual tokens, which new tokens do not.
        """
        layout, device, count = batch.layout, batch.input_ids.device, len(tokens)
        keep = torch.tensor(kept, device=device)
        if kept != list(range(batch.num_segments)):
            self.cache.select(kept)
        if self.last_ticks is not None:
            self.last_ticks = self.last_ticks[keep]
        lengths = layout.cu_seqlens.diff().long() if layout.prefill_len is None else layout.prefill_len
        none = torch.full((count,), -1, device=device)
        return PackedBatch(
            input_ids=torch.tensor(tokens, device=device),
            layout=Layout(
                token_type=torch.full((count,), int(token_type), device=device),
                cu_seqlens=torch.arange(count + 1, dtype=torch.int32, device=device),
                max_seqlen=1,
                image_id=none,
                grid=torch.zeros(0, 3, dtype=torch.long, device=device),
                last_ticks=self.last_ticks,
                prefill_len=lengths[keep],
            ),
            visual_index=none,
            labels=torch.full((count,), IGNORE, device=device),
            segment_sample=batch.segment_sample[keep],
            segment_source=batch.segment_source[keep],
            keys=[batch.keys[place] for place in kept],
            seed=batch.seed,
            epoch=batch.epoch,
            segment_copy=None if batch.segment_copy is None else batch.segment_copy[keep],
        )

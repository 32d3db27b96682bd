from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tiny
from mmcomponents.backbones import DecoderLM
from mmcomponents.positions import V2PE
from mmcomponents.testing import check_component, small_model
from mmcomponents.testing.case import outputs
from mmcomponents.testing.contracts.decode_equals_forward import in_calls
from testing.contracts.broken import failure


class FromTheLength(V2PE):
    """Counts cached tokens instead of continuing from the last position, which V2PE compresses."""

    def ticks(self, layout):
        if layout.last_ticks is None:
            self.lengths = layout.cu_seqlens.diff().long()
            return super().ticks(layout)
        self.lengths = self.lengths[-layout.num_segments :]  # the first one ends earlier
        layout = replace(layout, last_ticks=(self.lengths - 1) * 256)
        self.lengths = self.lengths + layout.cu_seqlens.diff()
        return super().ticks(layout)


class Chunks(DecoderLM):
    """Mixes several new tokens that follow cached ones."""

    def forward(self, x, layout, rotary=None, cache=None):
        out = super().forward(x, layout, rotary, cache)
        return out if cache is None or cache.is_empty or layout.max_seqlen == 1 else out + out.mean(0)


class OwnStore(DecoderLM):
    """Adds the first state of each segment, which it keeps itself and does not drop when a segment ends."""

    def forward(self, x, layout, rotary=None, cache=None):
        out = super().forward(x, layout, rotary, cache)
        if cache is None or cache.is_empty:
            self.first = out[layout.cu_seqlens[:-1].long()]
        return out + self.first[layout.segment_of_token()]


class WithoutCache(DecoderLM):
    def forward(self, x, layout, rotary=None, cache=None):
        return super().forward(x, layout, rotary)


def test_positions_from_the_length_of_the_cache() -> None:
    said = failure("decode_equals_forward", "position", lambda head_dim: FromTheLength(head_dim, delta=0.25))
    assert "output of lm differs by" in said


@pytest.mark.parametrize("wrong", [WithoutCache, Chunks, OwnStore])
def test_backbones_that_use_their_cache_wrongly(wrong) -> None:
    sizes = {"hidden_size": tiny.WIDTH, "num_layers": 2, "num_heads": 4, "intermediate_size": 48}
    assert "output of lm differs by" in failure("decode_equals_forward", "backbone", lambda: wrong(**sizes))


def test_a_model_without_a_sequence_cannot_decode() -> None:
    empty = dict.fromkeys(("projector", "embedder", "position", "backbone", "heads"))
    report = check_component("vision", tiny.vision_factory(), neighbours=empty, only=["decode_equals_forward"])
    assert [r.detail for r in report.with_status("not applicable")] == ["the model has no embedder and no backbone"]


@pytest.mark.parametrize("split", [3, 4, 7, 11, 13])
def test_a_prefill_may_be_cut_anywhere(split) -> None:
    """Also inside an image, after which V2PE continues from a fraction."""
    model = small_model(position=lambda head_dim: V2PE(head_dim, delta=1 / 16))
    batch = tiny.pack([("t", 3), ("i", 2), ("t", 8)])
    with torch.no_grad():
        pieces = in_calls(model, batch, [[split], [batch.num_tokens - split]])
        torch.testing.assert_close(pieces, outputs(model, batch), rtol=1e-5, atol=1e-5)

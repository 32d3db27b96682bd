"""Parts of packs of prompts."""

from __future__ import annotations

import torch

from mmcomponents.batch import TokenType
from mmcomponents.generation.prompt_parts import kept_positions
from policy import packed


def test_two_parts_have_all_positions_in_their_order() -> None:
    batch = packed()
    is_action = batch.layout.token_type == TokenType.ACTION
    one, two = kept_positions(batch, ~is_action, True), kept_positions(batch, is_action, False)
    assert one.images is batch.images
    assert two.images is None
    assert two.layout.cu_seqlens.tolist() == [0, 4, 8, 12]
    assert two.layout.max_seqlen == 4
    assert one.num_tokens + two.num_tokens == batch.num_tokens
    lengths = (batch.layout.cu_seqlens.diff() - 4).tolist()
    assert one.layout.cu_seqlens.diff().tolist() == lengths
    assert torch.equal(one.visual_index[one.visual_index >= 0], batch.visual_index[batch.visual_index >= 0])
    assert torch.equal(one.input_ids, batch.input_ids[~is_action])

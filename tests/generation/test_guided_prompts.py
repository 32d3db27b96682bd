"""Prompts without their questions."""

from __future__ import annotations

import torch

import synergen
from mmcomponents.batch import TokenType
from mmcomponents.data.chat.placeholders import place_media
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.loading.collation import collate
from mmcomponents.generation import Context, ImageSampler
from mmcomponents.generation.guided_prompts import with_starts


def test_the_copy_without_the_question_keeps_images_of_earlier_turns() -> None:
    how = synergen.renderer()
    messages = [
        {"role": "user", "content": "<image>\nRead."},
        {"role": "assistant", "content": "4 7"},
        {"role": "user", "content": "Generate an image of: 7 4"},
    ]
    placed, tiles = place_media(messages, [synergen.picture(0)], [], how.frame_template)
    segment = RenderedSample.of_chat(how.prompt(placed, tiles), tiles, sample=0, key="two turns")
    batch = collate([segment], how.tokens_per_tile, how.pad_id)
    both = with_starts(batch, 5, how.tokenizer, guided=True)
    start = int(both.layout.cu_seqlens[1])
    shown = batch.layout.token_type == TokenType.IMAGE
    assert int(shown.sum()) == 4
    last = int(shown.nonzero()[-1]) + 1
    for values in (both.layout.token_type, both.layout.image_id, both.visual_index, both.input_ids):
        assert torch.equal(values[start : start + last], values[:last])
    assert int((both.layout.token_type == TokenType.QUERY).sum()) == 1
    model = synergen.model(0, len(how.tokenizer))
    model.embedder.unconditional.data.fill_(1.0)
    context = Context(how.tokenizer)
    one = ImageSampler(3.0, temperature=0.0).answer(model, batch, context)
    batch.images.vq_ids = synergen.picture(1).vq_ids
    assert one != ImageSampler(3.0, temperature=0.0).answer(model, batch, context)

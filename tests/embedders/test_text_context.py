"""Mean features of text for the images of a segment."""

from __future__ import annotations

from dataclasses import replace

import torch

from mmcomponents.batch import TokenType
from mmcomponents.embedders.text_context import with_text_context
from mmcomponents.testing import pack

FEATURES = torch.arange(14.0).view(7, 2)


def test_a_tile_gets_the_mean_of_its_segment() -> None:
    batch = pack([("x", 2), ("i", 2)], [("x", 1)], [("x", 4), ("i", 1), ("i", 1)], [("t", 2), ("i", 1)])
    assert int((batch.layout.token_type == TokenType.EXTERNAL).sum()) == 7
    found = with_text_context(batch.images, batch, FEATURES).context
    assert found.tolist() == [[1.0, 2.0], [1.0, 2.0], [9.0, 10.0], [9.0, 10.0], [0.0, 0.0]]


def test_an_image_of_two_segments_has_the_text_of_the_first_one() -> None:
    batch = pack([("x", 2), ("i", 1)], [("x", 5), ("i", 1)])
    layout = replace(batch.layout, image_id=batch.layout.image_id.clamp(max=0), grid=batch.layout.grid[:1])
    images = replace(batch.images, pixels=batch.images.pixels[:1], tile_image=batch.images.tile_image[:1])
    batch = replace(batch, layout=layout, images=images)
    assert with_text_context(images, batch, FEATURES).context.tolist() == [[1.0, 2.0]]


def test_the_blank_tile_has_zeros() -> None:
    batch, blank = pack([("x", 7)]), pack([("i", 1)]).images
    assert with_text_context(blank, batch, FEATURES).context.tolist() == [[0.0, 0.0]]

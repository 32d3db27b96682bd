"""Fixtures: tokenizer and models of the tests of `generation`, and a renderer."""

import pytest

import tiny
from generation.conftest import parrot, tokenizer, writer
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.media.tiling import Tiling

__all__ = ["parrot", "tokenizer", "writer"]


@pytest.fixture
def renderer(tokenizer) -> SampleRenderer:
    return SampleRenderer(tokenizer, tiny.VISUAL_TOKENS, Tiling(tile_size=tiny.TILE, max_tiles=2))

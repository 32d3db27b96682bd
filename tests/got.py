"""A tiny GoT, its packs, and prompts."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

import tiny
from mmcomponents.batch import PackedBatch
from mmcomponents.compose import Factories
from mmcomponents.data.chat import SampleRenderer
from mmcomponents.data.chat.kinds import ReasonedPicture, Sample
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.media.images import TiledImage
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.embedders import QueryEmbedder
from mmcomponents.heads import Condition, ConvAutoencoder, CosineNoise, LMHead
from mmcomponents.heads.denoisers import UNetDenoiser
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.model import MultimodalModel
from mmcomponents.positions import RoPE
from mmcomponents.projectors import MLPProjector

SIDE, QUERIES = 16, 4
"""Side of a picture in pixels, queries of a picture."""

CODER = partial(ConvAutoencoder, picture_size=SIDE, latent_channels=2, widths=(8, 8))
DENOISER = partial(UNetDenoiser, 2, 4, widths=(8, 16), num_blocks=1, context_width=8, pooled_width=8, num_heads=2)
CONDITION = partial(Condition, denoiser=DENOISER, schedule=partial(CosineNoise, 20), num_queries=QUERIES)
TEXT = "a red bus <box>[[0, 250, 500, 750]]</box> (red) and a sun <box>[[500, 0, 1000, 250]]</box> (yellow)"


def model(seed: int = 0, vocabulary: int = tiny.VOCAB, opened: bool = True, **changes: Any) -> MultimodalModel:
    """Returns a model with random weights; `opened`: reference and layout change what is estimated."""
    parts: dict[str, Any] = {
        "vision": tiny.vision_factory(),
        "merger": PixelUnshuffle,
        "projector": MLPProjector,
        "embedder": partial(QueryEmbedder, num_queries=QUERIES),
        "position": RoPE,
        "backbone": tiny.backbone_factory(),
        "heads": {"lm": LMHead, "picture": CONDITION, "autoencoder": CODER},
    }
    made = Factories(**(parts | changes)).build(vocabulary, None)
    made.init_weights(seed)
    if opened and "picture" in made.heads:
        added = made.heads["picture"].denoiser.enter.added
        added.data.normal_(generator=torch.Generator().manual_seed(seed))
    return made


def renderer(tokens_per_tile: int = 4) -> SampleRenderer:
    """Returns a renderer with a tokenizer of the texts."""
    tokenizer = train_tokenizer([TEXT, "Generate an image of: a red bus"], 300)
    return SampleRenderer(tokenizer, tokens_per_tile, Tiling(max_tiles=1, tile_size=SIDE))


def png(colour: str = "red", side: int = SIDE) -> bytes:
    """Returns a file of a picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "png")
    return file.getvalue()


def sample(
    reasoning: str = TEXT,
    number: int = 0,
    images: tuple[TiledImage, ...] = (),
    files: tuple[bytes, ...] = (),
    **members: bytes,
) -> Sample:
    """Returns a sample of a picture to be made."""
    record = {"request": "Generate an image of: a red bus", "reasoning": reasoning}
    key = (0, 0, number, 0)
    own = {"picture.png": members.get("picture", png())}
    return Sample(record, images, members=own, number=number, key=key, files=files)


def packed(samples: list[Sample], how: SampleRenderer) -> PackedBatch:
    """Returns a pack of pictures to be made."""
    kind = ReasonedPicture(SIDE, QUERIES)
    rendered = []
    for one in samples:
        (segment,) = kind.render(one, how)
        segment.sample = one.number
        rendered.append(segment)
    return collate(rendered, how.tokens_per_tile, how.pad_id, empty=kind.empty())


def prompts(how: SampleRenderer, count: int = 2, files: tuple[bytes, ...] = ()) -> PackedBatch:
    """Returns a pack of requests, with the images of the files."""
    kind = ReasonedPicture(SIDE, QUERIES)
    found = []
    for number in range(count):
        images = tuple(how.decode(files))
        segment = kind.prompts(sample(number=number, images=images, files=files), how)[0].segment
        segment.sample = number
        found.append(segment)
    return collate(found, how.tokens_per_tile, how.pad_id)


def pixels(picture: Any) -> np.ndarray:
    return np.asarray(picture, np.int16)

"""A tiny SynerGen-VL, its packs, and prompts."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import tiny
from mmcomponents.backbones import ExpertDecoderLM
from mmcomponents.batch import PackedBatch
from mmcomponents.compose import Factories
from mmcomponents.data.chat import SampleRenderer
from mmcomponents.data.chat.kinds import CaptionedPicture, Sample
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.media.images import TiledImage
from mmcomponents.embedders import GuidedEmbedder
from mmcomponents.heads import LMHead, VQUnfold
from mmcomponents.mergers import Fold
from mmcomponents.model import MultimodalModel
from mmcomponents.positions import RoPE
from mmcomponents.projectors import LlavaProjector
from mmcomponents.vision import ConvVQTokenizer, VQEmbedding

CODES, SIDE, GRID = 32, 16, 4
"""Ids of the tokenizer, side of a picture in pixels and in ids."""

TOKENIZER = partial(ConvVQTokenizer, SIDE, CODES, 4, (8, 8))
UNFOLD: dict[str, Any] = {
    "codebook_size": CODES, "rows": 2, "columns": 2, "num_layers": 2, "num_heads": 4, "intermediate_size": 40,
}  # fmt: skip


def model(seed: int = 0, vocabulary: int = tiny.VOCAB, **changes: Any) -> MultimodalModel:
    """Returns a model with random weights."""
    parts: dict[str, Any] = {
        "vision": partial(VQEmbedding, 12, TOKENIZER),
        "merger": partial(Fold, rows=2, columns=2),
        "projector": LlavaProjector,
        "embedder": GuidedEmbedder,
        "position": RoPE,
        "backbone": partial(ExpertDecoderLM, **tiny.backbone_factory().keywords),
        "heads": {"lm": LMHead, "vq_unfold": partial(VQUnfold, **UNFOLD)},
    }
    made = Factories(**(parts | changes)).build(vocabulary, None)
    made.init_weights(seed)
    return made


def renderer() -> SampleRenderer:
    """Returns a renderer with a tokenizer of the captions."""
    texts = [f"Generate an image of: {n} {n}" for n in range(10)]
    return SampleRenderer(train_tokenizer(texts, 300), tokens_per_tile=4, normalization="siglip")


def picture(seed: int) -> TiledImage:
    """Returns a picture of random ids."""
    draw = torch.Generator().manual_seed(seed)
    return TiledImage(None, vq_ids=torch.randint(CODES, (1, GRID, GRID), generator=draw))


def sample(caption: str, image: TiledImage, number: int = 0, training: bool = True) -> Sample:
    """Returns the sample of a picture to be made."""
    return Sample({"caption": caption}, [image], number=number, key=(0, 0, number, 0), is_training=training)


def packed(samples: list[Sample], how: SampleRenderer, dropout: float = 0.0) -> PackedBatch:
    """Returns a pack of pictures to be made."""
    kind = CaptionedPicture(dropout)
    rendered = [kind.render(one, how)[0] for one in samples]
    return collate(rendered, how.tokens_per_tile, how.pad_id)


def prompts(captions: list[str], how: SampleRenderer) -> PackedBatch:
    """Returns a pack of questions for pictures."""
    found = [CaptionedPicture().prompts(Sample({"caption": caption}), how)[0].segment for caption in captions]
    return collate(found, how.tokens_per_tile, how.pad_id)

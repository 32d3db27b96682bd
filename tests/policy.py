"""A small policy of the library's parts, with packs of observations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import PackedBatch
from mmcomponents.companions.action_statistics import ActionStatistics
from mmcomponents.compose import Factories
from mmcomponents.embedders import ActionEmbedder, LinearActionEmbedder, TextEncoder
from mmcomponents.heads import CosineNoise, DenoisingHead
from mmcomponents.mergers import FiLMQFormer
from mmcomponents.model import MultimodalModel
from mmcomponents.positions import RoPE
from mmcomponents.testing import join
from mmcomponents.testing.sample_packs import action_packs
from mmcomponents.vision import InternViT

TEXT, WIDTH, QUERIES = 10, 32, 3


class WordVectors(TextEncoder):
    """A vector for each token id."""

    width = TEXT

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, ids: Tensor, lengths: list[int]) -> Tensor:
        self.calls += 1
        return torch.stack([torch.sin(ids * (n + 1.0)) for n in range(TEXT)], dim=1)


def statistics(folder: Path) -> str:
    """Writes statistics of actions of two values."""
    path = folder / "statistics.json"
    ActionStatistics("none", 9, (-1.0, -2.0), (1.0, 4.0)).save(path)
    return str(path)


def policy(
    folder: Path,
    head: Callable[..., Any] = DenoisingHead,
    embedder: type[ActionEmbedder] = LinearActionEmbedder,
    **arguments: Any,
) -> MultimodalModel:
    """Returns a policy with random weights, in evaluation mode; `schedule=None` leaves the schedule out."""
    given = {"schedule": partial(CosineNoise, 20), **arguments}
    given = {name: value for name, value in given.items() if value is not None}
    model = Factories(
        vision=partial(InternViT, 24, 2, 3, 40, image_size=16, patch_size=4, layer_scale=1.0),
        merger=partial(FiLMQFormer, context_width=TEXT, width=WIDTH, num_queries=QUERIES, num_layers=2, num_heads=4),
        embedder=partial(embedder, text=WordVectors, action_width=2),
        position=partial(RoPE, base=10_000.0),
        backbone=partial(DecoderLM, WIDTH, 2, 4, 48, qkv_bias=False),
        heads={"actions": partial(head, statistics=statistics(folder), action_width=2, **given)},
    ).build(64, None)
    model.init_weights(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".film_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def observations(seed: int = 0) -> list[PackedBatch]:
    """Returns packs of one observation each: three tiles, no image, one tile."""
    return action_packs(seed, tile=16, tokens_per_tile=QUERIES)[:3]


def packed(seed: int = 0) -> PackedBatch:
    """Returns a pack of three observations."""
    return join(*observations(seed))

"""One tiny model for each registered part, and for each style of it."""

from __future__ import annotations

from collections.abc import Callable

import tiny
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import NextToken, Objective
from mmcomponents.positions import V2PE, RoPE
from mmcomponents.projectors import LinearProjector, MLPProjector

MODELS: dict[str, Callable[[], MultimodalModel]] = {
    "InternVL3": tiny.model,
    "InternViT with RMSNorm and q/k norm": lambda: tiny.model(
        vision=tiny.vision(norm="rms_norm", qkv_bias=False, qk_norm=True)
    ),
    "InternViT up to an inner level": lambda: tiny.model(vision=tiny.vision(num_layers=3, levels=(2,))),
    "PixelUnshuffle v1": lambda: tiny.model(merger=PixelUnshuffle(tiny.VISION, order="v1")),
    "no merger": lambda: tiny.model(
        vision=tiny.vision(patch_size=8), merger=None, projector=MLPProjector(tiny.VISION, tiny.WIDTH)
    ),
    "LinearProjector": lambda: tiny.model(projector=LinearProjector(4 * tiny.VISION, tiny.WIDTH)),
    "RoPE": lambda: tiny.model(position=RoPE(tiny.HEAD)),
    "RoPE past its length": lambda: tiny.model(position=RoPE(tiny.HEAD, ntk_factor=2.0, max_position_embeddings=12)),
    "V2PE by the plain recurrence": lambda: tiny.model(position=V2PE(tiny.HEAD, delta=1 / 16, realign=False)),
    "no position": lambda: tiny.model(position=None),
    "DecoderLM as Qwen3": lambda: tiny.model(
        backbone=tiny.backbone(qkv_bias=False, qk_norm=True, head_dim=12), position=V2PE(12, delta=0.5)
    ),
    "DecoderLM as Llama": lambda: tiny.model(backbone=tiny.backbone(qkv_bias=False, num_kv_heads=4)),
    "TokenEmbedder with a tied LMHead": lambda: tiny.model(
        embedder=TokenEmbedder(tiny.VOCAB, tiny.WIDTH), heads={"lm": LMHead(tiny.WIDTH, tiny.VOCAB, tied=True)}
    ),
}

OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "NextToken by token": lambda: NextToken("token"),
    "NextToken by sample": lambda: NextToken("sample"),
    "NextToken by square": lambda: NextToken("square"),
}

"""Tiny parts, and what stands around them, of which the cases of the contract tests consist."""

from __future__ import annotations

import atexit
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import tiny
from mmcomponents.backbones import ExpertDecoderLM, TransformersLM
from mmcomponents.batch import FeatureMap, ModelState, PackedBatch, VisualFeatures
from mmcomponents.companions.action_statistics import ActionStatistics
from mmcomponents.embedders import (
    HolisticEmbedder,
    LinearActionEmbedder,
    PatchHolisticEmbedder,
    QueryEmbedder,
)
from mmcomponents.embedders.transformers_text import TransformersText
from mmcomponents.fusers import (
    ChannelMapper,
    Fuser,
    UFIEncoder,
)
from mmcomponents.heads import (
    Condition,
    ConvAutoencoder,
    DenoisingHead,
    DetectionHead,
    Head,
    LMHead,
    VQUnfold,
)
from mmcomponents.heads.denoisers import UNetDenoiser
from mmcomponents.heads.noise_schedule import CosineNoise
from mmcomponents.mergers import FiLMQFormer, Fold
from mmcomponents.positions import V2PE, RoPE
from mmcomponents.projectors import (
    LlavaProjector,
)
from mmcomponents.shared_vocabulary import SharedVocabulary
from mmcomponents.testing import (
    NeutralStart,
    small_model,
    small_parts,
    text_packs,
)
from mmcomponents.testing.case import Case
from mmcomponents.testing.contracts.state_round_trip import write_folder
from mmcomponents.vision import (
    PIIP,
    ConvVQTokenizer,
    Emu3Tokenizer,
    PatchStem,
    ResNet,
    TransformersConvNet,
    TransformersVision,
    VQEmbedding,
)


def language_model(model_type: str, **fields: Any) -> partial[TransformersLM]:
    """Returns a factory of a tiny language model of transformers."""
    shape: dict[str, Any] = {
        "hidden_size": tiny.WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    }
    if model_type == "gpt2":
        shape = {key: value for key, value in shape.items() if key not in ("num_key_value_heads", "intermediate_size")}
    return partial(TransformersLM, {"model_type": model_type, "vocab_size": tiny.VOCAB, **shape, **fields})


def tower(model_type: str, level: int = -1, **fields: Any) -> partial[TransformersVision]:
    """Returns a factory of a tiny vision tower of transformers."""
    shape = {
        "hidden_size": tiny.VISION,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "image_size": tiny.TILE,
        "patch_size": tiny.PATCH,
    }
    if model_type.startswith("dinov2"):
        del shape["intermediate_size"]
    return partial(TransformersVision, {"model_type": model_type, **shape, **fields}, level)


class AllMaps(Head):
    """Returns all maps side by side."""

    needs = ("visual",)

    def __init__(self, in_features: tuple[int, ...], vocab_size: int | None) -> None:
        super().__init__()
        self.in_features = in_features

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        assert state.visual is not None
        return torch.cat([one.tokens.flatten(0, 1) for one in state.visual.maps], dim=-1)


class GatedFuser(Fuser):
    """Adds a gated linear map of the first of two maps to the second one."""

    def __init__(self, in_features: tuple[int, int]) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, in_features[1]
        self.linear = nn.Linear(in_features[0], in_features[1])
        self.gate = nn.Parameter(torch.empty(in_features[1]))
        self.init_weights()

    def init_parameter(self, name, value, generator) -> None:
        if name == "gate":
            value.zero_()
        else:
            super().init_parameter(name, value, generator)

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        shallow, deep = (m.tokens for m in features.maps)
        return VisualFeatures([FeatureMap(deep + self.gate * self.linear(shallow), features.primary.hw)])


def deepen(part: Any) -> None:
    """Gives a holistic embedder without layers those of another one."""
    part.layers, part.num_layers = HOLISTIC(tiny.VOCAB, tiny.WIDTH).layers, 2


BRANCHES: dict[str, Any] = {
    "large": tiny.vision_factory(),
    "small": tiny.vision_factory(hidden_size=12, image_size=2 * tiny.TILE),
}
PYRAMID = partial(PIIP, BRANCHES, 2, num_heads=3, num_points=2)
TOWER: dict[str, Any] = {
    "model_type": "clip_vision_model", "hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 3 * tiny.TILE, "patch_size": tiny.PATCH,
}  # fmt: skip


def word_file() -> str:
    """Returns the path of a shared vocabulary of fewer words than the backbone is wide."""
    folder = tempfile.TemporaryDirectory(prefix="mmcomponents-words-")
    atexit.register(folder.cleanup)
    ids = torch.randperm(tiny.VOCAB - 10, generator=torch.Generator().manual_seed(0))[:20]
    rows = torch.randn(20, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    path = Path(folder.name) / "words.safetensors"
    SharedVocabulary(tuple(f"word {number}" for number in range(20)), ids, "none", rows).save(path)
    return str(path)


def statistics_file() -> str:
    """Returns the path of statistics of actions of two values."""
    folder = tempfile.TemporaryDirectory(prefix="mmcomponents-actions-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "statistics.json"
    ActionStatistics("none", 9, (-1.0, -2.0), (1.0, 3.0)).save(path)
    return str(path)


GOAL_TOWER = partial(
    TransformersText,
    {
        "model_type": "llama", "vocab_size": tiny.VOCAB, "hidden_size": 20, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    },
)  # fmt: skip
READER = partial(FiLMQFormer, context_width=20, width=tiny.WIDTH, num_queries=3, num_layers=2, num_heads=4)
ACTIONS: dict[str, Any] = {"statistics": statistics_file(), "action_width": 2}
NOISE: dict[str, Any] = {**ACTIONS, "schedule": partial(CosineNoise, 20)}
IN_CONTEXT = partial(DenoisingHead, **NOISE)
POLICY: dict[str, Any] = {
    "merger": READER,
    "projector": None,
    "embedder": partial(LinearActionEmbedder, text=GOAL_TOWER, action_width=2),
    "heads": {"actions": IN_CONTEXT},
}
WITHOUT_HEAD = {key: value for key, value in POLICY.items() if key != "heads"}
OUTSIDE_TEXT = "it is read at ACTION positions, and a text from outside is encoded as a whole"

WORDS = {"vocabulary": word_file(), "num_words": 20, "hidden_features": 28}

CONVNEXT: dict[str, Any] = {
    "model_type": "convnext", "num_stages": 2, "hidden_sizes": [8, 12], "depths": [1, 2], "patch_size": 4,
    "image_size": tiny.TILE, "drop_path_rate": 0.0,
}  # fmt: skip
CONVNET = partial(TransformersConvNet, CONVNEXT)

STEM = partial(PatchStem, tiny.VISION, tiny.TILE, tiny.PATCH)
STEM_OF_WIDTH = partial(PatchStem, tiny.WIDTH, tiny.TILE, tiny.PATCH)
HOLISTIC = partial(HolisticEmbedder, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=48)
PATCH_HOLISTIC = partial(
    PatchHolisticEmbedder, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=48, grid=(4, 4)
)

_FOLDERS = tempfile.TemporaryDirectory()  # deleted when the process ends


@cache
def teacher() -> str:
    """Returns the folder of a model with other sizes of encoder and projector."""
    parts = small_parts(vision=tiny.vision_factory(num_layers=3), projector=LlavaProjector)
    return str(write_folder(Case("vision", None, parts, text_packs), small_model(seed=4, **parts), Path(_FOLDERS.name)))


NO_POSITION = {"position": None}
V2PE_AS_ROPE = NeutralStart(RoPE, lambda part: setattr(part, "delta_log2", 2), partial(V2PE, delta=1.0))
NTK_AS_ROPE = NeutralStart(
    RoPE, lambda part: setattr(part, "base", 100.0), partial(RoPE, ntk_factor=2.0, max_position_embeddings=4096)
)

RESNET = partial(ResNet, (1, 1, 1, 1), 4, image_size=32)
NECK = partial(ChannelMapper, width=16, num_levels=4, num_groups=4)
LAYERS: dict[str, Any] = {"num_layers": 2, "num_heads": 2, "num_points": 2, "intermediate_size": 20}
DETECTION = partial(DetectionHead, num_classes=3, num_queries=6, num_inquiries=2, **LAYERS)
NO_LANGUAGE: dict[str, Any] = dict.fromkeys(("merger", "projector", "embedder", "position", "backbone"))
ENCODER = partial(UFIEncoder, neck=NECK, **LAYERS)
DETECTOR: dict[str, Any] = {**NO_LANGUAGE, "vision": RESNET, "fuser": ENCODER}
BEHIND_VISION: dict[str, Any] = {**NO_LANGUAGE, "fuser": ENCODER, "heads": {"lm": DETECTION}}
BEHIND_FUSER: dict[str, Any] = {**NO_LANGUAGE, "vision": RESNET, "heads": {"lm": DETECTION}}
WITH_HEAD: dict[str, Any] = {**DETECTOR, "heads": {"detection": DETECTION}}

VQ = partial(ConvVQTokenizer, tiny.TILE, 32, 4, (8, 8))
EMU3 = partial(
    Emu3Tokenizer,
    {
        "model_type": "emu3_vqgan", "codebook_size": 32, "embed_dim": 4, "latent_channels": 4, "base_channels": 32,
        "channel_multiplier": [1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "hidden_size": 32,
    },
    tiny.TILE,
)  # fmt: skip
IDS = partial(VQEmbedding, 12, VQ)
FOLD = partial(Fold, rows=2, columns=2)
UNFOLD = partial(VQUnfold, codebook_size=32, rows=2, columns=2, num_layers=2, num_heads=4, intermediate_size=40)
EXPERTS = partial(ExpertDecoderLM, **tiny.backbone_factory().keywords)
WITH_IDS: dict[str, Any] = {"vision": IDS, "merger": FOLD, "projector": LlavaProjector}
UNIFIED: dict[str, Any] = {**WITH_IDS, "backbone": EXPERTS, "heads": {"lm": LMHead, "vq_unfold": UNFOLD}}
CODER = partial(ConvAutoencoder, picture_size=16, latent_channels=2, widths=(8, 8))
UNET = partial(UNetDenoiser, 2, 4, widths=(8, 16), num_blocks=1, context_width=8, pooled_width=8, num_heads=2)
CONDITION = partial(Condition, denoiser=UNET, schedule=partial(CosineNoise, 20), num_queries=4)
WITH_QUERIES: dict[str, Any] = {"embedder": partial(QueryEmbedder, num_queries=4)}
REASONING: dict[str, Any] = {
    **WITH_QUERIES,
    "heads": {"lm": LMHead, "picture": CONDITION, "autoencoder": CODER},
}
TOKENIZER_ALONE: dict[str, Any] = {**NO_LANGUAGE, "heads": {"maps": AllMaps}}


def move_experts(part: Any) -> None:
    """Gives the feed-forward blocks of images other weights than those of the text."""
    for layer in part.layers:
        layer.image_mlp.down_proj.weight.data.mul_(-1.0)

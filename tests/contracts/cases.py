"""Arguments of `check_component` for each registered component and each of its variants."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

import tiny
from contracts.tiny_parts import (
    ACTIONS,
    BEHIND_FUSER,
    BEHIND_VISION,
    BRANCHES,
    CODER,
    CONDITION,
    CONVNET,
    CONVNEXT,
    DETECTION,
    DETECTOR,
    EMU3,
    ENCODER,
    EXPERTS,
    FOLD,
    GOAL_TOWER,
    HOLISTIC,
    IDS,
    IN_CONTEXT,
    LAYERS,
    NECK,
    NO_POSITION,
    NOISE,
    NTK_AS_ROPE,
    OUTSIDE_TEXT,
    PATCH_HOLISTIC,
    POLICY,
    PYRAMID,
    READER,
    REASONING,
    RESNET,
    STEM,
    STEM_OF_WIDTH,
    TOKENIZER_ALONE,
    TOWER,
    UNFOLD,
    UNIFIED,
    V2PE_AS_ROPE,
    VQ,
    WITH_HEAD,
    WITH_IDS,
    WITH_QUERIES,
    WITHOUT_HEAD,
    WORDS,
    GatedFuser,
    deepen,
    language_model,
    move_experts,
    teacher,
    tower,
)
from mmcomponents.embedders import (
    ActionEmbedder,
    GuidedEmbedder,
    TokenEmbedder,
)
from mmcomponents.evaluation.selectors import BestOfN, First, Mean, Oracle, SelfConsistency
from mmcomponents.fusers import (
    DeformableEncoder,
    DetectionMerge,
    GatedMerge,
    MMFuser,
)
from mmcomponents.generation import DDIM, Autoregressive, DirectActions, GuidedGeneration, ImageSampler, TopBoxes
from mmcomponents.heads import (
    ActionHead,
    LiteDetectionHead,
    LMHead,
    PooledDenoisingHead,
    TokenDenoisingHead,
    Verbalizer,
)
from mmcomponents.mergers import PixelUnshuffle, QFormer
from mmcomponents.objectives import (
    MPO,
    ActionRegression,
    Diffusion,
    Distillation,
    FrozenReference,
    ImageTokens,
    NextToken,
    PictureDiffusion,
    PictureReconstruction,
    ProcessReward,
    SetCriterion,
    VQReconstruction,
)
from mmcomponents.positions import V2PE, MovingBaseRoPE, RoPE
from mmcomponents.projectors import (
    LangBridge,
    LinearProjector,
    LiveLangBridge,
    LlavaProjector,
    MLPProjector,
    ModuleProjector,
    SoftmaxLangBridge,
    TwoMap,
)
from mmcomponents.testing import (
    NeutralStart,
    box_packs,
    image_packs,
    preference_packs,
    step_packs,
)
from mmcomponents.testing.sample_packs import VERDICTS, action_packs, picture_packs, reasoned_packs
from mmcomponents.vision import (
    PIIP,
    ResNet,
    TransformersConvNet,
    TransformersVision,
)
from tower_standins import StandInOpenClip, StandInTimm


def case(slot: str, factory: Any, **arguments: Any) -> dict[str, Any]:
    return {"slot": slot, "factory": factory, **arguments}


VISUAL = ("vision", "fuser", "merger", "projector")
"""Slots of the visual side."""

PARTS: dict[str, dict[str, Any]] = {
    "InternViT": case("vision", tiny.vision_factory()),
    "PatchStem": case("vision", STEM),
    "InternViT with RMSNorm and q/k norm": case(
        "vision", tiny.vision_factory(norm="rms_norm", qkv_bias=False, qk_norm=True)
    ),
    "InternViT up to an inner level": case("vision", tiny.vision_factory(num_layers=3, levels=(2,))),
    "TransformersVision as SigLIP": case("vision", tower("siglip_vision_model")),
    "TransformersVision as CLIP, an inner level": case("vision", tower("clip_vision_model", level=-2)),
    "TransformersVision as DINOv2 with registers": case("vision", tower("dinov2_with_registers")),
    "TransformersVision as DINOv3": case(
        "vision",
        tower("dinov3_vit", pos_embed_rescale=None),  # else positions are jittered at random
    ),
    "TransformersConvNet as ConvNeXt": case("vision", CONVNET, neighbours={"merger": None}),
    "TransformersConvNet as ConvNeXt V2": case(
        "vision", partial(TransformersConvNet, {**CONVNEXT, "model_type": "convnextv2"}), neighbours={"merger": None}
    ),
    "TimmVision, a stand-in of a vision transformer": case("vision", partial(StandInTimm, "vit")),
    "TimmVision, a stand-in with batch norms": case(
        "vision", partial(StandInTimm, "convnet", (1,)), neighbours={"merger": None}
    ),
    "OpenClipVision, a stand-in": case(
        "vision",
        partial(
            StandInOpenClip,
            "tiny-clip",
        ),
    ),
    "ResNet": case("vision", RESNET, neighbours=BEHIND_VISION, packs=image_packs),
    "ResNet with group norms": case(
        "vision",
        partial(ResNet, (1, 1, 1, 1), 8, image_size=32, norm="group_norm"),
        neighbours=BEHIND_VISION,
        packs=image_packs,
    ),
    "PIIP of a convolutional branch": case(
        "vision",
        partial(
            PIIP,
            {"small": CONVNET, "large": tiny.vision_factory(num_layers=3)},
            {"small": [1, 2], "large": [2, 1]},
            num_heads=2,
            num_points=2,
        ),
        neighbours={"fuser": partial(GatedMerge, reduction=2), "merger": None},
    ),
    "PIIP of two branches": case("vision", PYRAMID, neighbours={"fuser": GatedMerge}),
    "PIIP of three branches with dense attention": case(
        "vision",
        partial(PIIP, {**BRANCHES, "tower": partial(TransformersVision, TOWER)}, 2, "dense", num_heads=2),
        neighbours={"fuser": partial(GatedMerge, reduction=3)},
    ),
    "a gated fuser": case(
        "fuser",
        GatedFuser,
        neighbours={"vision": tiny.vision_factory(levels=(1, 2))},
        neutral=NeutralStart(None, lambda part: nn.init.ones_(part.gate), neighbours={"vision": tiny.vision_factory()}),
    ),
    "MMFuser": case(
        "fuser",
        partial(MMFuser, num_heads=4, num_points=2),
        neighbours={"vision": tiny.vision_factory(num_layers=3, levels=(0, 1, -1))},
        neutral=NeutralStart(
            None, lambda part: nn.init.ones_(part.gamma1), neighbours={"vision": tiny.vision_factory(num_layers=3)}
        ),
    ),
    "MMFuser over a tower of transformers": case(
        "fuser",
        partial(MMFuser, num_heads=4, num_points=2),
        neighbours={"vision": partial(tower("clip_vision_model"), levels=(0, 1, 2))},
    ),
    "GatedMerge": case("fuser", GatedMerge, neighbours={"vision": PYRAMID}),
    "DetectionMerge": case("fuser", partial(DetectionMerge, num_groups=4), neighbours={"vision": PYRAMID}),
    "ChannelMapper": case("fuser", NECK, neighbours=BEHIND_FUSER, packs=image_packs),
    "DeformableEncoder": case(
        "fuser",
        partial(DeformableEncoder, neck=NECK, **LAYERS),
        neighbours=BEHIND_FUSER,
        packs=image_packs,
    ),
    "UFIEncoder": case("fuser", ENCODER, neighbours=BEHIND_FUSER, packs=image_packs),
    "ConvVQTokenizer": case(
        "vision",
        VQ,
        neighbours=TOKENIZER_ALONE,
        packs=image_packs,
        not_applicable={"warm_start": "the tokenizer is the whole model"},
    ),
    "Emu3Tokenizer": case(
        "vision",
        EMU3,
        neighbours=TOKENIZER_ALONE,
        packs=image_packs,
        only=["packed_equals_separate", "declared_sizes", "state_round_trip", "sharded_equals_plain"],
    ),
    "VQEmbedding": case("vision", IDS, neighbours={"merger": FOLD, "projector": LlavaProjector}, packs=picture_packs),
    "Fold": case("merger", FOLD),
    "PixelUnshuffle": case("merger", PixelUnshuffle),
    "PixelUnshuffle v1": case("merger", partial(PixelUnshuffle, order="v1")),
    "QFormer": case("merger", partial(QFormer, width=24, num_queries=3, num_layers=2, num_heads=4)),
    "FiLMQFormer": case(
        "merger",
        READER,
        neighbours={key: POLICY[key] for key in ("projector", "embedder", "heads")},
        packs=action_packs,
        not_applicable={"decode_equals_forward": OUTSIDE_TEXT},
    ),
    "MLPProjector": case("projector", MLPProjector),
    "MLPProjector without a merger": case(
        "projector", MLPProjector, neighbours={"merger": None, "vision": tiny.vision_factory(patch_size=8)}
    ),
    "LinearProjector": case("projector", LinearProjector),
    "LlavaProjector": case("projector", LlavaProjector),
    "ModuleProjector": case("projector", partial(ModuleProjector, module=nn.Linear)),
    "TwoMap": case("projector", partial(TwoMap, num_groups=4), neighbours={"vision": PYRAMID, "merger": None}),
    "LangBridge": case("projector", partial(LangBridge, **WORDS)),
    "LiveLangBridge": case("projector", partial(LiveLangBridge, **WORDS)),
    "SoftmaxLangBridge": case("projector", partial(SoftmaxLangBridge, **WORDS)),
    "TokenEmbedder": case("embedder", TokenEmbedder),
    "GuidedEmbedder": case("embedder", GuidedEmbedder),
    "QueryEmbedder": case("embedder", WITH_QUERIES["embedder"], packs=reasoned_packs),
    "HolisticEmbedder": case(
        "embedder",
        HOLISTIC,
        neutral=NeutralStart(TokenEmbedder, deepen, partial(HOLISTIC, num_layers=0)),
        neighbours={"vision": STEM, "projector": LlavaProjector},
    ),
    "HolisticEmbedder with RoPE": case("embedder", HOLISTIC, neighbours={"position": RoPE}),
    "PatchHolisticEmbedder": case("embedder", PATCH_HOLISTIC, neighbours={"vision": STEM_OF_WIDTH, "projector": None}),
    "PatchHolisticEmbedder with RoPE": case(
        "embedder", PATCH_HOLISTIC, neighbours={"vision": STEM_OF_WIDTH, "projector": None, "position": RoPE}
    ),
    "PatchHolisticEmbedder after a projector": case("embedder", PATCH_HOLISTIC),
    "ActionEmbedder": case(
        "embedder",
        partial(ActionEmbedder, text=GOAL_TOWER, action_width=2),
        neighbours={key: POLICY[key] for key in ("merger", "projector", "heads")},
        packs=action_packs,
        not_applicable={"decode_equals_forward": OUTSIDE_TEXT},
    ),
    "LinearActionEmbedder": case(
        "embedder",
        POLICY["embedder"],
        neighbours={key: POLICY[key] for key in ("merger", "projector", "heads")},
        packs=action_packs,
        not_applicable={"decode_equals_forward": OUTSIDE_TEXT},
    ),
    "V2PE": case("position", partial(V2PE, delta=0.25), neutral=V2PE_AS_ROPE),
    "V2PE by the plain recurrence": case("position", partial(V2PE, delta=1 / 16, realign=False)),
    "RoPE": case("position", RoPE, neutral=NTK_AS_ROPE),
    "MovingBaseRoPE": case(
        "position", partial(MovingBaseRoPE, ntk_factor=2.0, max_position_embeddings=4096), neutral=NTK_AS_ROPE
    ),
    "RoPE past its length": case("position", partial(RoPE, ntk_factor=2.0, max_position_embeddings=12)),
    "DecoderLM": case("backbone", tiny.backbone_factory()),
    "DecoderLM without positions": case("backbone", tiny.backbone_factory(), neighbours=NO_POSITION),
    "DecoderLM as Qwen3": case(
        "backbone",
        tiny.backbone_factory(qkv_bias=False, qk_norm=True, head_dim=12),
        neighbours={"position": partial(V2PE, delta=0.5)},
    ),
    "DecoderLM as Llama": case("backbone", tiny.backbone_factory(qkv_bias=False, num_kv_heads=4)),
    "ExpertDecoderLM": case("backbone", EXPERTS, neutral=NeutralStart(tiny.backbone_factory(), move_experts)),
    "TransformersLM as Qwen2": case("backbone", language_model("qwen2")),
    "TransformersLM as Mistral with a window": case(
        "backbone",
        language_model("mistral", sliding_window=6),
        neighbours={"position": partial(RoPE, base=10000.0)},
    ),
    "TransformersLM as GPT-2, with its own positions": case(
        "backbone", language_model("gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0), neighbours=NO_POSITION
    ),
    "TransformersLM as Llama, with its own positions": case(
        "backbone", language_model("llama"), neighbours=NO_POSITION
    ),
    "LMHead": case("head", LMHead),
    "LMHead, tied": case("head", partial(LMHead, tied=True)),
    "VQUnfold": case("head", UNFOLD, neighbours=WITH_IDS, packs=picture_packs),
    "Condition": case("head", CONDITION, neighbours=WITH_QUERIES, packs=reasoned_packs),
    "ConvAutoencoder": case(
        "head",
        CODER,
        packs=reasoned_packs,
        not_applicable=dict.fromkeys(
            ("packed_equals_separate", "packs_of_one_kind"), "it reads pictures of the pack, and nothing of the model"
        ),
    ),
    "Verbalizer": case("head", partial(Verbalizer, token_ids=VERDICTS)),
    "ActionHead": case(
        "head",
        partial(ActionHead, **ACTIONS),
        neighbours=WITHOUT_HEAD,
        packs=action_packs,
        not_applicable={"decode_equals_forward": OUTSIDE_TEXT},
    ),
    "DenoisingHead": case(
        "head",
        IN_CONTEXT,
        neighbours=WITHOUT_HEAD,
        packs=action_packs,
        not_applicable={"decode_equals_forward": OUTSIDE_TEXT},
    ),
    "TokenDenoisingHead": case(
        "head",
        partial(TokenDenoisingHead, **NOISE, num_blocks=2),
        neighbours=WITHOUT_HEAD,
        packs=action_packs,
        not_applicable={"decode_equals_forward": OUTSIDE_TEXT},
    ),
    "PooledDenoisingHead": case(
        "head",
        partial(PooledDenoisingHead, **NOISE, num_blocks=2, horizon=4),
        neighbours=WITHOUT_HEAD,
        packs=action_packs,
        not_applicable={"decode_equals_forward": OUTSIDE_TEXT},
    ),
    "DetectionHead": case("head", DETECTION, neighbours=DETECTOR, packs=image_packs),
    "DetectionHead of one inquiry": case(
        "head",
        partial(DETECTION, num_inquiries=1),
        neighbours={**DETECTOR, "fuser": partial(DeformableEncoder, neck=NECK, **LAYERS)},
        packs=image_packs,
    ),
    "LiteDetectionHead": case(
        "head",
        partial(LiteDetectionHead, num_classes=3, num_queries=6, num_inquiries=2, **LAYERS),
        neighbours=DETECTOR,
        packs=image_packs,
    ),
    "NextToken by token": case("objective", partial(NextToken, "token")),
    "NextToken by sample": case("objective", partial(NextToken, "sample")),
    "NextToken by square": case("objective", partial(NextToken, "square")),
    "MPO with stored references": case("objective", MPO, packs=preference_packs),
    "MPO with a frozen reference": case("objective", partial(MPO, reference=FrozenReference), packs=preference_packs),
    "MPO as DPO alone": case(
        "objective", partial(MPO, dpo_weight=1.0, bco_weight=0.0, nll_weight=0.0), packs=preference_packs
    ),
    "ProcessReward": case(
        "objective",
        ProcessReward,
        packs=step_packs,
        neighbours={"heads": {"lm": partial(Verbalizer, token_ids=VERDICTS)}},
    ),
    "ProcessReward with a tied head": case(
        "objective",
        ProcessReward,
        packs=step_packs,
        neighbours={"heads": {"lm": partial(Verbalizer, token_ids=VERDICTS, tied=True)}},
    ),
    "Distillation": case(
        "objective", partial(Distillation, teacher()), neighbours={"vision": STEM_OF_WIDTH, "embedder": HOLISTIC}
    ),
    "Distillation of an embedder of patches": case(
        "objective",
        partial(Distillation, teacher()),
        neighbours={"vision": STEM_OF_WIDTH, "projector": None, "embedder": PATCH_HOLISTIC},
    ),
    "SetCriterion": case("objective", partial(SetCriterion, denoising=6), packs=box_packs, neighbours=WITH_HEAD),
    "SetCriterion without denoising": case(
        "objective", partial(SetCriterion, denoising=0), packs=box_packs, neighbours=WITH_HEAD
    ),
    "ImageTokens": case("objective", ImageTokens, packs=picture_packs, neighbours=UNIFIED),
    "VQReconstruction": case(
        "objective", VQReconstruction, packs=image_packs, neighbours={**TOKENIZER_ALONE, "vision": VQ}
    ),
    "ImageSampler": case(
        "sampler", partial(ImageSampler, guidance=1.0, start_id=5), packs=picture_packs, neighbours=UNIFIED
    ),
    "ImageSampler of the most likely ids": case(
        "sampler",
        partial(ImageSampler, guidance=1.0, temperature=0.0, start_id=5),
        packs=picture_packs,
        neighbours=UNIFIED,
    ),
    "PictureDiffusion": case("objective", PictureDiffusion, packs=reasoned_packs, neighbours=REASONING),
    "PictureReconstruction": case("objective", PictureReconstruction, packs=reasoned_packs, neighbours=REASONING),
    "GuidedGeneration": case(
        "sampler",
        partial(GuidedGeneration, steps=3, max_new_tokens=4, start_id=5),
        packs=reasoned_packs,
        neighbours=REASONING,
    ),
    "Diffusion": case("objective", Diffusion, packs=action_packs, neighbours=POLICY),
    "Diffusion with a pooled head": case(
        "objective",
        Diffusion,
        packs=action_packs,
        neighbours=POLICY | {"heads": {"actions": partial(PooledDenoisingHead, **NOISE, num_blocks=2, horizon=4)}},
    ),
    "ActionRegression": case(
        "objective",
        ActionRegression,
        packs=action_packs,
        neighbours=POLICY | {"heads": {"actions": partial(ActionHead, **ACTIONS)}},
    ),
    "DDIM": case("sampler", partial(DDIM, steps=3), neighbours=POLICY, packs=action_packs),
    "DirectActions": case(
        "sampler",
        DirectActions,
        neighbours=POLICY | {"heads": {"actions": partial(ActionHead, **ACTIONS)}},
        packs=action_packs,
    ),
    "TopBoxes": case("sampler", partial(TopBoxes, num_boxes=4), neighbours=WITH_HEAD),
    "Autoregressive": case("sampler", partial(Autoregressive, max_new_tokens=6)),
    "Autoregressive at temperature 1": case(
        "sampler", partial(Autoregressive, max_new_tokens=6, temperature=1.0, top_k=20)
    ),
    "First": case("selector", First),
    "SelfConsistency": case("selector", SelfConsistency),
    "BestOfN": case("selector", partial(BestOfN, aggregate=Mean())),
    "Oracle": case("selector", Oracle),
}

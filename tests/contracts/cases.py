"""Tiny models for the contract tests: one for each registered component and each of its variants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peft import LoraConfig, PeftConfig

import step_packs
import tiny
from mmcomponents.backbones import TransformersLM
from mmcomponents.batch import PackedBatch
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead, Verbalizer
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import MPO, FrozenReference, NextToken, Objective, ProcessReward
from mmcomponents.positions import V2PE, RoPE
from mmcomponents.projectors import LinearProjector, MLPProjector
from mmcomponents.training import SlotOptions
from mmcomponents.training.adapters import inject_adapters, start_adapters
from mmcomponents.vision import TransformersVision
from pair_packs import no_pair, pair, with_reference


def language_model(model_type: str, **fields: Any) -> TransformersLM:
    """Returns a tiny language model of transformers."""
    shape: dict[str, Any] = {
        "hidden_size": tiny.WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    }
    return TransformersLM({"model_type": model_type, "vocab_size": tiny.VOCAB, **shape, **fields})


def tower(model_type: str, level: int = -1, **fields: Any) -> TransformersVision:
    """Returns a tiny vision tower of transformers."""
    shape = {
        "hidden_size": tiny.VISION,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "image_size": tiny.TILE,
        "patch_size": tiny.PATCH,
    }
    return TransformersVision({"model_type": model_type, **shape, **fields}, level)


def adapted(**configs: PeftConfig) -> MultimodalModel:
    """Returns the tiny InternVL3 with adapters, initialised as the configuration specifies."""
    model = tiny.model()
    inject_adapters(model, {slot: SlotOptions(adapter=config) for slot, config in configs.items()})
    start_adapters(model, 0)
    return model.eval()


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
    "DecoderLM and InternViT with LoRA": lambda: adapted(
        backbone=LoraConfig(r=4, target_modules=["q_proj", "o_proj", "up_proj"], init_lora_weights=False),
        vision=LoraConfig(r=4, target_modules=["qkv", "fc2"], init_lora_weights=False),
    ),
    "DecoderLM as Llama": lambda: tiny.model(backbone=tiny.backbone(qkv_bias=False, num_kv_heads=4)),
    "TransformersLM as Qwen2": lambda: tiny.model(backbone=language_model("qwen2")),
    "TransformersLM as Mistral with a window": lambda: tiny.model(
        backbone=language_model("mistral", sliding_window=6), position=RoPE(tiny.HEAD, base=10000.0)
    ),
    "TransformersLM as GPT-2, with its own positions": lambda: tiny.model(
        backbone=language_model("gpt2"), position=None
    ),
    "TransformersLM as Llama, with its own positions": lambda: tiny.model(
        backbone=language_model("llama"), position=None
    ),
    "TransformersVision as SigLIP": lambda: tiny.model(vision=tower("siglip_vision_model")),
    "TransformersVision as CLIP, an inner level": lambda: tiny.model(vision=tower("clip_vision_model", level=-2)),
    "TransformersVision as DINOv2 with registers": lambda: tiny.model(vision=tower("dinov2_with_registers")),
    "TokenEmbedder with a tied LMHead": lambda: tiny.model(
        embedder=TokenEmbedder(tiny.VOCAB, tiny.WIDTH), heads={"lm": LMHead(tiny.WIDTH, tiny.VOCAB, tied=True)}
    ),
    "Verbalizer": lambda: tiny.model(heads={"lm": Verbalizer(tiny.WIDTH, tiny.VOCAB, (7, 3))}),
}


def frozen_reference() -> MPO:
    """Returns MPO with a reference model of other weights, so that rewards are not zero."""
    objective = MPO(reference=FrozenReference)
    objective.prepare(tiny.model(), lambda: tiny.model(5))
    return objective


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "NextToken by token": lambda: NextToken("token"),
    "NextToken by sample": lambda: NextToken("sample"),
    "NextToken by square": lambda: NextToken("square"),
    "MPO with stored references": MPO,
    "MPO with a frozen reference": frozen_reference,
    "MPO as DPO alone": lambda: MPO(dpo_weight=1.0, bco_weight=0.0, nll_weight=0.0),
    "ProcessReward": ProcessReward,
}


def packs_for(objective: Objective) -> list[PackedBatch]:
    """Returns packs with targets for an objective and one without; they can be joined to one pack."""
    if isinstance(objective, MPO):
        prompts = [[("t", 5), ("i", 2), ("t", 4)], [("t", 7)], [("t", 2), ("i", 1), ("t", 3), ("i", 1)]]
        pairs = [pair(p, 3 + n, 6 - n, seed=n) for n, p in enumerate(prompts)]
        return [with_reference(pairs[0]), no_pair(seed=9), *map(with_reference, pairs[1:])]
    mixed = ([("t", 5), ("i", 2), ("t", 4)], [("t", 7)], [("t", 2), ("i", 1), ("t", 3), ("i", 1), ("t", 6)])
    if isinstance(objective, ProcessReward):
        return step_packs.separate(step_packs.with_steps(tiny.pack(*mixed), [3, 0, 5]))
    return tiny.separate(tiny.pack(*mixed, targets=[3, 2, 7]))

"""Tiny transformers models of every block style."""

from __future__ import annotations

from typing import Any

import torch

IMAGE_TOKEN = 60
VISION: dict[str, dict[str, Any]] = {
    "300m": {"norm_type": "layer_norm", "attention_bias": True, "use_qk_norm": False},
    "6b": {"norm_type": "rms_norm", "attention_bias": False, "use_qk_norm": True},
}
TEXT: dict[str, dict[str, Any]] = {
    "qwen2": {"model_type": "qwen2"},
    "qwen2-ntk": {
        "model_type": "qwen2",
        "max_position_embeddings": 16,
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 12},
    "llama": {"model_type": "llama"},
}
STYLES = [("300m", "qwen2", False), ("6b", "qwen2-ntk", False), ("300m", "qwen3", True), ("6b", "llama", False)]


def hf_model(vision: str, text: str, tied: bool, seed: int = 0) -> Any:
    """Tiny InternVLForConditionalGeneration in evaluation mode, with random weights."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    torch.manual_seed(seed)
    body = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "tie_word_embeddings": tied,
    }
    config = InternVLConfig(
        vision_config={
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 40,
            "image_size": (16, 16),
            "patch_size": (4, 4),
            **VISION[vision],
        },
        text_config=body | TEXT[text],
        image_token_id=IMAGE_TOKEN,
        image_seq_length=4,
        tie_word_embeddings=tied,
    )
    model = InternVLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for (
            name,
            parameter,
        ) in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.5 if "norm" in name or parameter.ndim == 1 else 0.2))
    model.tie_weights()
    return model


def ids_and_pixels(images: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Returns a sequence with images of alternately two tiles and one tile, and their pixels."""
    torch.manual_seed(7)
    ids: list[int] = torch.randint(1, 50, (5,)).tolist()
    tiles = 0
    for number in range(images):
        count = 2 - number % 2
        ids += [51, *[IMAGE_TOKEN] * (4 * count), 52, *torch.randint(1, 50, (3,)).tolist()]
        tiles += count
    return torch.tensor(ids), torch.randn(tiles, 3, 16, 16) if tiles else None

"""Denoiser of diffusers at a tiny size, with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="the extra diffusers is not installed")

from mmcomponents.component import WiringError
from mmcomponents.heads.denoisers import DiffusersUNet

CONFIG: dict[str, Any] = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "norm_num_groups": 8,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [16, 32], "transformer_layers_per_block": [1, 2], "attention_head_dim": [2, 4],
    "cross_attention_dim": 24, "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 20 + 6 * 8,
}  # fmt: skip


def given() -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    latents, context = torch.randn(2, 12, 8, 8, generator=draw), torch.randn(2, 5, 24, generator=draw)
    return latents, torch.tensor([3, 900]), context, torch.randn(2, 20, generator=draw)


def test_at_the_start_it_is_the_model_that_it_widens() -> None:
    from diffusers import UNet2DConditionModel

    made, plain = DiffusersUNet(CONFIG), UNet2DConditionModel(**CONFIG)
    assert made.unet.load_state_dict(plain.state_dict(), strict=False).missing_keys == ["conv_in.added"]
    latents, level, context, pooled = given()
    sizes = torch.tensor([64.0, 64.0, 0.0, 0.0, 64.0, 64.0]).expand(2, -1)
    conditions = {"text_embeds": pooled, "time_ids": sizes}
    expected = plain(latents[:, :4], level, context, added_cond_kwargs=conditions).sample
    assert torch.equal(made(latents, level, context, pooled), expected)
    made.unet.conv_in.added.data.fill_(0.1)
    assert (made(latents, level, context, pooled) - expected).abs().max() > 1e-3


def test_sizes_are_those_of_the_configuration() -> None:
    made = DiffusersUNet(CONFIG)
    assert (made.latent_channels, made.latent_size, made.context_width, made.pooled_width) == (4, 8, 24, 20)
    assert {kind.__name__ for kind in made.shard_units} == {"BasicTransformerBlock", "ResnetBlock2D"}
    with pytest.raises(WiringError, match=r"needs addition_embed_type .text_time., as SDXL has, and .* None"):
        DiffusersUNet({key: value for key, value in CONFIG.items() if not key.startswith(("addition", "projection"))})

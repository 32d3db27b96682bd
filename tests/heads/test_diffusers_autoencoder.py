"""Autoencoder of diffusers at a tiny size, with random weights, and GoT with both parts of SDXL."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="the extra diffusers is not installed")

import got
from mmcomponents.data.chat import end_ids
from mmcomponents.generation import Context, GuidedGeneration
from mmcomponents.heads import Condition, DiffusersAutoencoder, LMHead, ScaledLinearNoise
from mmcomponents.heads.denoisers import DiffusersUNet
from mmcomponents.objectives import PictureDiffusion

CONFIG: dict[str, Any] = {
    "sample_size": 16, "block_out_channels": [8, 8], "latent_channels": 4, "norm_num_groups": 4, "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2, "scaling_factor": 0.2,
}  # fmt: skip
UNET: dict[str, Any] = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "norm_num_groups": 8,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [16, 32], "attention_head_dim": [2, 4], "cross_attention_dim": 24,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 68,
}  # fmt: skip


def test_latents_are_those_of_diffusers() -> None:
    made = DiffusersAutoencoder(8, None, CONFIG)
    assert (made.picture_size, made.latent_size, made.latent_channels, made.scale) == (16, 8, 4, 0.2)
    pictures = torch.rand(2, 3, 16, 16) * 2 - 1
    latents = made.encode(pictures)
    assert torch.equal(latents, made.vae.encode(pictures).latent_dist.mode())
    assert torch.equal(made.decode(latents), made.vae.decode(latents).sample)
    with pytest.raises(ValueError, match="a picture of 8 x 8 pixels, and DiffusersAutoencoder encodes pictures of 16"):
        made.encode(pictures[:, :, :8, :8])


def test_got_with_the_parts_of_sdxl_trains_and_draws() -> None:
    how = got.renderer()
    picture = partial(
        Condition, denoiser=partial(DiffusersUNet, UNET, 2), schedule=ScaledLinearNoise, num_queries=got.QUERIES
    )
    coder = partial(DiffusersAutoencoder, config=CONFIG)
    heads = {"lm": LMHead, "picture": picture, "autoencoder": coder}
    model = got.model(vocabulary=len(how.tokenizer), opened=False, heads=heads)
    pack, objective = got.packed([got.sample()], how), PictureDiffusion(dropout=0.0)
    objective(model, pack, objective.counts(pack)).total.backward()
    assert model.heads["picture"].denoiser.unet.conv_in.added.grad.any()
    sampler = GuidedGeneration(2, max_new_tokens=2)
    context = Context(how.tokenizer, end_ids(how.tokenizer), torch.Generator().manual_seed(0))
    answers = sampler.answer(model, got.prompts(how), context)
    assert [answer.picture.size for answer in answers if answer.picture is not None] == [(16, 16)] * 2

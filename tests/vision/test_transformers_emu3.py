"""Emu3's tokenizer: ids and pixels of transformers, folders of both kinds. Contracts: tests/contracts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import Emu3Config, Emu3ForConditionalGeneration, Emu3VQVAE, Emu3VQVAEConfig

from mmcomponents.checkpoints import load_initial
from mmcomponents.compose import Factories
from mmcomponents.vision import Emu3Tokenizer, VQEmbedding

FIELDS = {
    "codebook_size": 32, "embed_dim": 4, "latent_channels": 4, "base_channels": 32, "channel_multiplier": [1, 1, 1],
    "num_res_blocks": 1, "attn_resolutions": [], "hidden_size": 32,
}  # fmt: skip
SMALL = {"model_type": "emu3_vqgan", **FIELDS}


@pytest.fixture(scope="module")
def published() -> Emu3VQVAE:
    """A tokenizer of transformers with random weights."""
    torch.manual_seed(0)
    made = Emu3VQVAE(Emu3VQVAEConfig(**FIELDS)).eval()
    with torch.no_grad():  # statistics and codes that training would give
        for name, buffer in made.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
    return made


def whole(model: Emu3VQVAE, folder: Path) -> None:
    """Writes a whole Emu3 with this tokenizer."""
    text = {
        "vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    vocabulary = {"<image>": 3, "<|extra_200|>": 4, **{f"<|visual token {n:06d}|>": 10 + n for n in range(32)}}
    config = Emu3Config(vq_config=SMALL, text_config=text, vocabulary_map=vocabulary)
    made = Emu3ForConditionalGeneration(config)
    made.model.vqmodel.load_state_dict(model.state_dict())
    made.save_pretrained(folder)


@pytest.mark.parametrize("kind", ["tokenizer", "whole"])
def test_ids_and_pixels_are_those_of_the_published_tokenizer(published: Emu3VQVAE, kind: str, tmp_path: Path) -> None:
    if kind == "tokenizer":
        published.save_pretrained(tmp_path)
    else:
        whole(published, tmp_path)
    embedding = partial(VQEmbedding, 8, partial(Emu3Tokenizer, str(tmp_path), 16))
    model = Factories(vision=embedding).build(None, None)
    model.init_weights(0)
    load_initial(model, {"vision.tokenizer": str(tmp_path)})
    tokenizer = model.vision.tokenizer
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        expected = torch.stack(published.encode(pixels, torch.tensor([[16, 16]] * 2)).image_tokens)
        assert torch.equal(tokenizer.encode_ids(pixels), expected)
        torch.testing.assert_close(tokenizer.decode_ids(expected), published.decode(expected))
    assert expected.shape == (2, 4, 4)
    assert len(expected.unique()) > 2


def test_tiles_are_encoded_and_decoded_in_groups() -> None:
    every, one = Emu3Tokenizer(SMALL, 16, 3), Emu3Tokenizer(SMALL, 16)
    one.load_state_dict(every.state_dict())
    sizes: list[int] = []
    for part in (one.body.encoder, one.body.decoder):
        part.register_forward_hook(lambda _, given, out: sizes.append(len(given[0])))
    pixels = torch.rand(3, 3, 16, 16) * 2 - 1
    ids = one.encode_ids(pixels)
    assert torch.equal(ids, every.encode_ids(pixels))
    torch.testing.assert_close(one.decode_ids(ids), every.decode_ids(ids))
    assert sizes == [1] * 6


def test_it_stays_in_evaluation_mode_and_is_frozen() -> None:
    made = Emu3Tokenizer(SMALL, 16).train()
    assert not any(module.training for module in made.modules())
    assert made.frozen_names() == {name for name, _ in made.named_parameters()}


def test_errors() -> None:
    with pytest.raises(ValueError, match="wraps emu3_vqgan, not clip_vision_model"):
        Emu3Tokenizer({"model_type": "clip_vision_model"}, 16)
    with pytest.raises(ValueError, match="a tile of 18 x 18 pixels is not a multiple of the patch size 4"):
        Emu3Tokenizer(SMALL, 18)

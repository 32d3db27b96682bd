"""Text towers of transformers, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from mmcomponents.embedders import TransformersText

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
CLIP: dict[str, Any] = {
    "model_type": "clip_text_model", "vocab_size": 50, "max_position_embeddings": 12, "eos_token_id": 49,
    "bos_token_id": 48, "pad_token_id": 49, **SIZES,
}  # fmt: skip
LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 50, "num_key_value_heads": 1, **SIZES,
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
}  # fmt: skip


@pytest.mark.parametrize("config", [CLIP, LLAMA], ids=lambda config: config["model_type"])
def test_texts_do_not_see_each_other_nor_their_padding(config: dict[str, Any]) -> None:
    text = TransformersText(config).eval()
    ids = torch.tensor([48, 3, 4, 49, 48, 9, 49])
    together, lengths = text(ids, [4, 3]), [4, 3]
    assert together.shape == (7, 16)
    for one, found in zip(ids.split(lengths), together.split(lengths), strict=True):
        torch.testing.assert_close(found, text(one, [len(one)]), rtol=1e-5, atol=1e-5)


def test_features_are_those_of_clip(tmp_path: Path) -> None:
    theirs = CLIPTextModel(CLIPTextConfig(**{k: v for k, v in CLIP.items() if k != "model_type"})).eval()
    theirs.save_pretrained(tmp_path)
    text = TransformersText.pretrained(tmp_path)
    ids = torch.tensor([48, 3, 4, 5, 49])
    with torch.no_grad():
        expected = theirs(input_ids=ids[None]).last_hidden_state[0]
    torch.testing.assert_close(text(ids, [5]), expected)


def test_weights_are_never_trained() -> None:
    text = TransformersText(CLIP)
    assert not any(p.requires_grad for p in text.parameters())
    assert text.frozen_names() == {name for name, _ in text.named_parameters()}
    assert not text(torch.tensor([48, 3, 49]), [3]).requires_grad


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match="transformers has no model_type 'clipp_text_model'"):
        TransformersText({**CLIP, "model_type": "clipp_text_model"})

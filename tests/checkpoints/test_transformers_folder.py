"""Weights of models that only transformers supports, in `TransformersLM` and `TransformersVision`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tiny
from mmcomponents.backbones import TransformersLM
from mmcomponents.batch import ImageBatch
from mmcomponents.checkpoints import CheckpointError, load_initial
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead
from mmcomponents.model import MultimodalModel
from mmcomponents.positions import RoPE
from mmcomponents.projectors import LinearProjector
from mmcomponents.vision import ResNet, TransformersVision

TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
}
TOWER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}


def _save(model: Any, folder: Path) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval().save_pretrained(folder)
    return model


def _language_model(kind: str, folder: Path, **changes: Any) -> tuple[Any, MultimodalModel]:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **(TEXT | changes))
    theirs = _save(transformers.AutoModelForCausalLM.from_config(config), folder)
    backbone = TransformersLM(str(folder))
    ours = MultimodalModel(
        embedder=TokenEmbedder(64, 32),
        position=None if kind == "gpt2" else RoPE(backbone.head_dim, base=10_000.0),
        backbone=backbone,
        heads={"lm": LMHead(32, 64, tied=bool(config.tie_word_embeddings))},
    )
    return theirs, ours.eval()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {"tie_word_embeddings": False}),
        ("gpt2", {"tie_word_embeddings": True}),
        ("qwen2", {"tie_word_embeddings": True}),  # a type that is also read without transformers
        ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": False}),
    ],
)
def test_a_language_model_of_any_kind_takes_its_weights(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    theirs, ours = _language_model(kind, tmp_path, **changes)
    ids = torch.randint(1, 64, (9,))
    with torch.no_grad():
        expected = theirs(input_ids=ids[None]).logits[0]
        assert (ours.logits(ids) - expected).abs().max() > 0.1
        load_initial(ours, tmp_path)
        torch.testing.assert_close(ours.logits(ids), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["dinov2", "clip", "siglip"])
def test_a_vision_tower_takes_its_weights_alone_or_from_a_composite(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    sizes = TOWER | {"image_size": 16, "patch_size": 4}
    if kind == "dinov2":
        theirs = tower = _save(transformers.AutoModel.from_config(transformers.Dinov2Config(**sizes)), tmp_path)
    else:
        text = {"vocab_size": 30, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3}
        text |= {"intermediate_size": 40, **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))}
        config = transformers.AutoConfig.for_model(kind, vision_config=sizes, text_config=text)
        theirs = _save(transformers.AutoModel.from_config(config), tmp_path)
        tower = theirs.vision_model
    vision = TransformersVision(str(tmp_path))
    model = tiny.model(vision=vision, merger=None, projector=LinearProjector(24, 32))
    load_initial(model, {"vision": tmp_path})
    tiles = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = tower(pixel_values=tiles).last_hidden_state[:, -16:]
        found = model.vision(ImageBatch(tiles, torch.zeros(2))).primary.tokens
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_weights_that_are_missing_are_not_left_as_drawn(tmp_path: Path) -> None:
    _, ours = _language_model("mistral", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        load_initial(ours, tmp_path)


def test_a_slot_that_only_our_formats_can_fill_is_refused(tmp_path: Path) -> None:
    _language_model("mistral", tmp_path)
    with pytest.raises(CheckpointError, match="has no weights projector"):
        load_initial(tiny.model(), {"projector": tmp_path})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nobody_knows"}))
    with pytest.raises(CheckpointError, match="transformers cannot read it"):
        load_initial(tiny.model(), {"embedder": tmp_path})


def test_another_rotary_base_than_the_weights_had_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, ours = _language_model("mistral", tmp_path)
    load_initial(ours, tmp_path)
    assert "base" not in caplog.text
    ours.position = RoPE(8, base=1e6)
    load_initial(ours, tmp_path)
    assert "the position part has the base 1e+06" in caplog.text
    assert "was trained with 10000" in caplog.text


def test_a_resnet_starts_from_a_folder_of_timm_with_torchvisions_names(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"depths": (1, 1), "width": 8, "stages": (2,), "image_size": 32}
    stored = {name: torch.randn_like(value) for name, value in ResNet(**sizes).state_dict().items()}
    others = {"fc.weight": torch.zeros(10, 64), "bn1.num_batches_tracked": torch.tensor(3)}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50", "num_classes": 10}))
    save_file({**stored, **others}, tmp_path / "model.safetensors")
    model = MultimodalModel(vision=ResNet(**sizes))
    load_initial(model, {"vision": str(tmp_path)})
    found = model.vision.state_dict()
    assert found.keys() == stored.keys()
    assert all(torch.equal(value, stored[name]) for name, value in found.items())
    with pytest.raises(CheckpointError, match=r"of this ResNet: it has no layer1\.1\.conv1\.weight"):
        load_initial(MultimodalModel(vision=ResNet(**sizes | {"depths": (2, 1)})), {"vision": str(tmp_path)})
    with pytest.raises(CheckpointError, match="it has batch norms, and the part has norm 'group_norm'"):
        load_initial(MultimodalModel(vision=ResNet(**sizes, norm="group_norm")), {"vision": str(tmp_path)})

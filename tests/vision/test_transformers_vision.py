"""Wrapped vision towers compared with transformers' own forward, with random weights."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import tiny
from mmcomponents.backbones import TransformersLM
from mmcomponents.batch import ImageBatch
from mmcomponents.model import MultimodalModel
from mmcomponents.vision import TransformersVision

SHAPE: dict[str, Any] = {
    "hidden_size": tiny.VISION,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": tiny.TILE,
    "patch_size": tiny.PATCH,
}
OF_DINO = {key: value for key, value in SHAPE.items() if key != "intermediate_size"}
CASES: dict[str, dict[str, Any]] = {
    "SigLIP": {"model_type": "siglip_vision_model", **SHAPE},
    "CLIP": {"model_type": "clip_vision_model", **SHAPE},
    "DINOv2": {"model_type": "dinov2", **OF_DINO},
    "DINOv2 with registers": {"model_type": "dinov2_with_registers", **OF_DINO},
    "DINOv3": {"model_type": "dinov3_vit", **SHAPE, "num_register_tokens": 3},
    "ViT": {"model_type": "vit", **SHAPE},
    "InternViT": {"model_type": "internvl_vision", **SHAPE, "use_qk_norm": True, "norm_type": "rms_norm"},
}
PREFIX = {"SigLIP": 0, "DINOv2 with registers": 5, "DINOv3": 4}
cases = pytest.mark.parametrize("case", CASES)


def pair(case: str, level: int = -1, levels: tuple[int, ...] | None = None) -> tuple[TransformersVision, Any]:
    """Returns a component with large random weights, and transformers' model with the same weights."""
    part = TransformersVision(CASES[case], level, levels=levels)
    theirs = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**CASES[case]))
    with torch.no_grad():
        for p in part.parameters():
            torch.nn.init.normal_(p, std=0.3)
    missing, unexpected = theirs.load_state_dict(part.body.state_dict(), strict=False)
    assert not unexpected
    gone = {"pooler", "head", "post_layernorm", "mask_token", "layernorm", "layers", "layer", "norm"}
    assert all(gone & set(name.split(".")) for name in missing), missing
    return part.eval(), theirs.eval()


def images(count: int = 2, hw: tuple[int, int] = (tiny.TILE, tiny.TILE)) -> ImageBatch:
    return ImageBatch(torch.randn(count, 3, *hw), torch.zeros(count, dtype=torch.long))


@cases
@pytest.mark.parametrize("level", [-1, -2, 1])
def test_equals_transformers(case, level) -> None:
    part, theirs = pair(case, level)
    batch = images()
    (found,) = part(batch).maps
    out = theirs(pixel_values=batch.pixels, output_hidden_states=True)
    wanted = out.last_hidden_state if level == -1 else out.hidden_states[level]
    assert part.num_prefix == PREFIX.get(case, 1)
    assert found.hw == (4, 4)
    torch.testing.assert_close(found.tokens, wanted[:, part.num_prefix :], rtol=1e-5, atol=1e-5)
    found.tokens.square().sum().backward()
    assert [n for n, p in part.named_parameters() if p.grad is None] == []


@cases
@pytest.mark.parametrize("levels", [(0, 1, -1), (1, 2), (0, 2), (-3, -2)])
def test_several_levels_equal_transformers(case, levels) -> None:
    part, theirs = pair(case, levels=levels)
    batch = images()
    out = theirs(pixel_values=batch.pixels, output_hidden_states=True)
    maps = part(batch).maps
    assert part.hidden_size == (tiny.VISION,) * len(levels)
    for level, found in zip(levels, maps, strict=True):
        wanted = out.last_hidden_state if level == -1 else out.hidden_states[level]
        torch.testing.assert_close(found.tokens, wanted[:, part.num_prefix :], rtol=1e-5, atol=1e-5)
    torch.stack([found.tokens.square().sum() for found in maps]).sum().backward()
    assert [n for n, p in part.named_parameters() if p.grad is None] == []
    assert not any("_layers" in name for name in part.state_dict())


@cases
@pytest.mark.parametrize("level", [-1, 2])
@pytest.mark.parametrize("side", [tiny.TILE, 2 * tiny.TILE])
def test_blocks_run_one_by_one(case, level, side) -> None:
    part, _ = pair(case, level)
    batch = images(hw=(side, side))
    if case == "DINOv3":
        with pytest.raises(ValueError, match="DINOv3ViTModel cannot run block by block, only"):
            part.embed(batch.pixels)
        return
    x, hw = part.embed(batch.pixels)
    for index in range(part.num_blocks):
        x, hw = part.run_block(index, x, hw)
    assert hw == (side // tiny.PATCH, side // tiny.PATCH)
    expected = part(batch).primary.tokens
    assert torch.equal(part.finish(x)[:, part.num_prefix :], expected)
    assert (part.block_width(1), part.block_grid(1, (side, side))) == (tiny.VISION, hw)


@pytest.mark.parametrize("levels", [(2, 1), (-1, 1), (1, 1), (), (0, 9)])
def test_levels_increase(levels) -> None:
    with pytest.raises(ValueError, match="level"):
        TransformersVision(CASES["CLIP"], levels=levels)


@cases
def test_what_the_map_does_not_need_is_not_there(case) -> None:
    whole, inner = (sum(p.numel() for p in TransformersVision(CASES[case], level).parameters()) for level in (-1, 1))
    theirs = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**CASES[case]))
    assert inner < whole <= sum(p.numel() for p in theirs.parameters())
    assert (whole == sum(p.numel() for p in theirs.parameters())) == (case == "InternViT")


@cases
def test_the_same_weights_on_the_meta_device(case) -> None:
    plain = TransformersVision(CASES[case])
    plain.init_weights(7)
    with torch.device("meta"):
        late = TransformersVision(CASES[case])
    late.to_empty(device="cpu")
    late.init_weights(7)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), late.parameters(), strict=True))
    batch = images()
    assert torch.equal(plain.eval()(batch).primary.tokens, late.eval()(batch).primary.tokens)
    dtypes = [b.dtype for b in plain.buffers()]
    assert [b.dtype for b in plain.to(torch.bfloat16).buffers()] == dtypes, "frequencies are not rounded"
    assert plain(batch).primary.tokens.dtype == torch.bfloat16


def test_break_buffers_are_not_restored(monkeypatch) -> None:
    monkeypatch.setattr("mmcomponents.nn.wrapped.Starts.restore", lambda self, body: None)
    plain = TransformersVision(CASES["DINOv3"]).eval()
    with torch.device("meta"):
        late = TransformersVision(CASES["DINOv3"]).eval()
    late.to_empty(device="cpu")
    late.load_state_dict(plain.state_dict())
    late.body.rope_embeddings.inv_freq.zero_()  # as `to_empty` may leave it
    batch = images()
    assert not torch.allclose(plain(batch).primary.tokens, late(batch).primary.tokens)
    monkeypatch.undo()
    late.to("cpu")  # any move restores them
    assert torch.equal(plain(batch).primary.tokens, late(batch).primary.tokens)


@cases
def test_other_tiles_have_positions_between(case) -> None:
    part, theirs = pair(case)
    batch = images(hw=(16, 32))
    (found,) = part(batch).maps
    more = {"interpolate_pos_encoding": True} if case in ("SigLIP", "CLIP", "ViT") else {}
    wanted = theirs(pixel_values=batch.pixels, **more).last_hidden_state[:, part.num_prefix :]
    assert found.hw == (4, 8)
    torch.testing.assert_close(found.tokens, wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="a tile of 16 x 18 pixels is not a multiple of the patch size 4"):
        part(images(hw=(16, 18)))


def test_a_composite_configuration_and_a_folder(tmp_path) -> None:
    fields = {k: v for k, v in CASES["CLIP"].items() if k != "model_type"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": fields}))
    part = TransformersVision(str(tmp_path))
    assert type(part.body).__name__ == "CLIPVisionModel"
    assert part.state_dict().keys() == TransformersVision(CASES["CLIP"]).state_dict().keys()


@pytest.mark.parametrize(
    ("config", "level", "message"),
    [
        ("nobody/nothing", -1, "'nobody/nothing' does not exist"),
        (CASES["CLIP"], 4, "level 4: CLIPVisionModel has the hidden states -4 to 3"),
        (CASES["CLIP"] | {"image_size": [16, 32]}, -1, "clip_vision_model has image_size .*: only square tiles"),
        ({"model_type": "swin", "embed_dim": 24}, -1, "only towers with one token per patch"),
        ({"model_type": "swin", "image_size": 64}, -1, "SwinModel cannot encode a tile of 64 pixels"),
        ({"model_type": "convnextv2"}, -1, "in place of patches: use TransformersConvNet"),
        ({"model_type": "llama"}, -1, "llama has image_size None"),
    ],
)
def test_wrong_configurations_are_refused(config, level, message) -> None:
    with pytest.raises(ValueError, match=message):
        TransformersVision(config, level)


def test_flops_are_those_of_our_own_encoder() -> None:
    batch = tiny.pack([("t", 3), ("i", 2)])
    config = CASES["InternViT"] | {"num_hidden_layers": 2, "attention_bias": True}
    assert TransformersVision(config).flops(batch) == tiny.vision().flops(batch)
    assert TransformersVision(config).flops(tiny.pack([("t", 3)])) == 0


def to_internvl(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Converts the names of InternViT to those of transformers."""
    out = {}
    for name, value in state.items():
        if ".attn.qkv." in name:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                out[name.replace("attn.qkv", f"attention.{part}_proj")] = piece
        else:
            out[name] = value
    pairs = (
        ("blocks.", "encoder.layer."), ("norm1", "layernorm_before"), ("norm2", "layernorm_after"), ("ls1", "lambda_1"),
        ("ls2", "lambda_2"), ("attn.proj", "attention.projection_layer"), ("class_embedding", "embeddings.cls_token"),
        ("patch_embedding.", "embeddings.patch_embeddings.projection."),
        ("position_embedding", "embeddings.position_embeddings"),
    )  # fmt: skip
    for old, new in pairs:
        out = {name.replace(old, new): value for name, value in out.items()}
    return out


def test_a_wrapped_internvl3_equals_our_own() -> None:
    ours = tiny.model()
    vision = CASES["InternViT"] | {"num_hidden_layers": 2, "use_qk_norm": False, "norm_type": "layer_norm"}
    vision |= {"attention_bias": True, "layer_norm_eps": 1e-6}
    lm = {"model_type": "qwen2", "vocab_size": 8, "hidden_size": tiny.WIDTH, "num_hidden_layers": 2}
    lm |= {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "rope_theta": 1e6}
    lm |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    wrapped: MultimodalModel = tiny.model(vision=TransformersVision(vision), backbone=TransformersLM(lm))
    wrapped.backbone.body.load_state_dict(ours.backbone.state_dict())
    wrapped.vision.body.load_state_dict(to_internvl(ours.vision.state_dict()))
    batch = tiny.pack([("t", 5), ("i", 2), ("t", 4)], [("t", 7)], [("t", 2), ("i", 1), ("t", 3)], delta_log2=[2, 4])
    found, wanted = tiny.logits(wrapped, batch), tiny.logits(ours, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    wrapped.init_weights(3)
    assert (tiny.logits(wrapped, batch) - wanted).abs().max() > 1e-2


@pytest.mark.parametrize("model_type", ["aimv2_vision_model", "beit", "dinov3_vit"])
def test_towers_whose_layers_may_need_more_have_no_blocks(model_type: str) -> None:
    part = TransformersVision({"model_type": model_type, **SHAPE})
    assert not part.has_blocks
    with pytest.raises(ValueError, match="cannot run block by block"):
        part.embed(torch.randn(1, 3, tiny.TILE, tiny.TILE))


def test_tokens_after_the_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="yolos has tokens after those of the patches"):
        TransformersVision({"model_type": "yolos", **SHAPE, "image_size": [tiny.TILE, tiny.TILE]})

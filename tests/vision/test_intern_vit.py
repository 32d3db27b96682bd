"""InternViT compared with transformers' port, with random weights; figure g is in test_model.py."""

import pytest
import torch
from transformers import InternVLVisionConfig, InternVLVisionModel

import tiny
from mmcomponents.batch import ImageBatch
from mmcomponents.vision import InternViT

NAMES = {
    "embeddings.cls_token": "class_embedding",
    "embeddings.patch_embeddings.projection": "patch_embedding",
    "embeddings.position_embeddings": "position_embedding",
    "encoder.layer": "blocks",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.projection_layer": "attn.proj",
    "attention.q_norm": "attn.q_norm",
    "attention.k_norm": "attn.k_norm",
    "lambda_1": "ls1",
    "lambda_2": "ls2",
}


def images(count: int, height: int, width: int) -> ImageBatch:
    return ImageBatch(torch.randn(count, 3, height, width), torch.zeros(count, dtype=torch.long))


@pytest.mark.parametrize("style", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("size", [(16, 16), (24, 32)], ids=["own grid", "other grid"])
def test_equals_transformers(style, size) -> None:
    big = style == "rms_norm"
    config = InternVLVisionConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        image_size=[16, 16],
        patch_size=[4, 4],
        norm_type=style,
        attention_bias=not big,
        use_qk_norm=big,
        use_absolute_position_embeddings=True,
        use_mean_pooling=True,
    )
    theirs = InternVLVisionModel(config).eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.3)
    state = {}
    for name, value in theirs.state_dict().items():
        if any(f".{x}_proj." in name for x in "kv"):
            continue
        if ".q_proj." in name:
            value = torch.cat([theirs.state_dict()[name.replace("q_proj", f"{x}_proj")] for x in "qkv"])
        for old, new in [*NAMES.items(), ("attention.q_proj", "attn.qkv")]:
            name = name.replace(old, new)
        state[name] = value
    ours = tiny.vision(norm=style, qkv_bias=not big, qk_norm=big).eval()
    ours.load_state_dict(state)
    batch = images(3, *size)
    found = ours(batch).primary
    assert found.hw == (size[0] // 4, size[1] // 4)
    wanted = theirs(batch.pixels).last_hidden_state[:, 1:]
    torch.testing.assert_close(found.tokens, wanted, rtol=1e-5, atol=1e-5)


def test_levels_are_the_outputs_of_blocks() -> None:
    several = tiny.vision(levels=(0, 1, -1))
    assert several.hidden_size == (24, 24, 24)
    last = tiny.vision()
    last.load_state_dict(several.state_dict())
    first = tiny.vision(num_layers=1)
    first.load_state_dict({k: v for k, v in several.state_dict().items() if "blocks.1" not in k})
    batch = images(2, 16, 16)
    maps = several(batch).maps
    assert [m.name for m in maps] == ["block0", "block1", "block2"]
    assert torch.equal(maps[2].tokens, last(batch).primary.tokens)
    assert torch.equal(maps[1].tokens, first(batch).primary.tokens)
    with pytest.raises(ValueError, match="must increase and lie between 0 and 2"):
        tiny.vision(levels=(3,))
    with pytest.raises(ValueError, match="must increase and lie between 0 and 2"):
        tiny.vision(levels=(2, 1))


def test_drop_path_rises_with_depth_and_is_off_in_evaluation() -> None:
    part = tiny.vision(num_layers=3, drop_path=0.4)
    assert [b.drop_path.rate for b in part.blocks] == pytest.approx([0.0, 0.2, 0.4])
    batch = images(8, 16, 16)
    part.train()
    assert not torch.equal(part(batch).primary.tokens, part(batch).primary.tokens)
    part.eval()
    assert torch.equal(part(batch).primary.tokens, part(batch).primary.tokens)


def test_layer_scale_starts_at_its_value() -> None:
    part = tiny.vision(layer_scale=0.25)
    assert set(part.blocks[0].ls1.tolist()) == {0.25}


def test_shapes_of_the_releases() -> None:
    """Parameter counts of figure j: 300M and 6B."""
    with torch.device("meta"):
        small = InternViT()
        large = InternViT(3200, 45, 25, 12800, norm="rms_norm", qkv_bias=False, qk_norm=True)
    assert sum(p.numel() for p in small.parameters()) == 304_012_288
    assert sum(p.numel() for p in large.parameters()) == 5_536_496_000


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size 25 is not a multiple of num_heads 3"):
        tiny.vision(hidden_size=25)
    with pytest.raises(ValueError, match="18 x 16 pixels is not a multiple of the patch size 4"):
        tiny.vision()(images(1, 18, 16))
    with pytest.raises(ValueError, match="norm must be"):
        tiny.vision(norm="batch_norm")


@pytest.mark.parametrize("levels", [(-1,), (1, 2)])
def test_blocks_run_one_by_one(levels: tuple[int, ...]) -> None:
    encoder = tiny.vision(levels=levels).eval()
    pixels = torch.randn(2, 3, 2 * tiny.TILE, tiny.TILE)
    x, hw = encoder.embed(pixels)
    for index in range(encoder.num_blocks):
        x, hw = encoder.run_block(index, x, hw)
    features = encoder(ImageBatch(pixels, torch.zeros(2, dtype=torch.long)))
    assert torch.equal(encoder.finish(x)[:, encoder.num_prefix :], features.primary.tokens)
    assert hw == features.primary.hw == encoder.block_grid(1, (2 * tiny.TILE, tiny.TILE))
    assert encoder.block_width(1) == tiny.VISION

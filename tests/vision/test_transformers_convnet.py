"""Wrapped ConvNeXt compared with transformers' own forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tiny
from contracts.tiny_parts import CONVNEXT
from mmcomponents.batch import ImageBatch
from mmcomponents.checkpoints import load_initial
from mmcomponents.testing import small_model
from mmcomponents.vision import TransformersConvNet

V2 = {**CONVNEXT, "model_type": "convnextv2"}


def theirs(config: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize("config", [CONVNEXT, V2], ids=["V1", "V2"])
@pytest.mark.parametrize("hw", [(tiny.TILE, tiny.TILE), (2 * tiny.TILE, tiny.TILE)])
def test_equals_transformers(config: dict[str, Any], hw: tuple[int, int]) -> None:
    part, model = TransformersConvNet(config).eval(), theirs(config)
    missing, unexpected = part.body.load_state_dict(model.state_dict(), strict=False)
    assert (missing, unexpected) == ([], ["layernorm.weight", "layernorm.bias"])
    pixels = torch.randn(2, 3, *hw)
    found = part(ImageBatch(pixels, torch.zeros(2, dtype=torch.long))).primary
    wanted = model(pixel_values=pixels).last_hidden_state
    assert found.hw == tuple(wanted.shape[-2:]) == part.grid(hw)
    torch.testing.assert_close(found.tokens, wanted.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)


def test_grid_and_width_change_with_depth() -> None:
    part = TransformersConvNet(CONVNEXT)
    x, hw = part.embed(torch.randn(1, 3, tiny.TILE, tiny.TILE))
    for count in range(part.num_blocks + 1):
        assert (x.shape[-1], hw) == (part.block_width(count), part.block_grid(count, (tiny.TILE, tiny.TILE)))
        if count < part.num_blocks:
            x, hw = part.run_block(count, x, hw)
    assert part.block_grid(1, (16, 16)) == (4, 4)
    assert part.block_grid(2, (16, 16)) == (2, 2)
    with pytest.raises(ValueError, match="a tile of 12 x 16 pixels is not a multiple of 8"):
        part.embed(torch.randn(1, 3, 12, 16))
    with pytest.raises(ValueError, match="TransformersConvNet wraps convnext and convnextv2, not resnet"):
        TransformersConvNet({"model_type": "resnet"})


def test_it_takes_weights_of_a_folder(tmp_path: Path) -> None:
    model = theirs(CONVNEXT)
    model.save_pretrained(tmp_path)
    ours = small_model(vision=lambda: TransformersConvNet(CONVNEXT), merger=None)
    load_initial(ours, {"vision": tmp_path})
    for name, value in ours.vision.body.named_parameters():
        assert torch.equal(value, model.get_parameter(name)), name

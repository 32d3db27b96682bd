"""A slot takes instances of its base class, and wrappers of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import tiny
from mmcomponents.batch import Layout
from mmcomponents.component import WiringError
from mmcomponents.heads import LMHead
from mmcomponents.model import MultimodalModel
from mmcomponents.vision import InternViT


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (
            {"vision": nn.Linear(2, 2)},
            "an instance of VisionEncoder, got Linear: .*, or wrap it as TransformersVision, Timm",
        ),
        (
            {"vision": InternViT},
            "an instance of VisionEncoder, got the class InternViT, not an instance of it$",
        ),
        (
            {"merger": nn.Identity()},
            "slot merger takes an instance of Merger, got Identity: derive the part from Merger$",
        ),
        ({"projector": nn.Linear(2, 2)}, "or wrap it as ModuleProjector$"),
        ({"embedder": LMHead(8, 8)}, "slot embedder takes an instance of Embedder, got LMHead"),
        ({"heads": {"lm": nn.Linear(2, 2)}}, r"slot heads\.lm takes an instance of Head, got Linear"),
    ],
)
def test_a_slot_takes_parts_of_its_base_only(parts: dict[str, Any], told: str) -> None:
    with pytest.raises(WiringError, match=told):
        MultimodalModel(**parts)


@pytest.mark.parametrize(
    "wrap",
    [
        partial(torch.compile, backend="eager"),
        checkpoint_wrapper,
        lambda part: get_peft_model(part, LoraConfig(target_modules="all-linear")),
    ],
)
def test_wrapped_parts_stay_parts(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = tiny.model()
    slots = {name: part for name, part in model.parts().items() if "." not in name}
    for name in ("vision", "projector", "backbone"):
        slots[name] = wrap(slots[name])
    composed = MultimodalModel(**slots, heads={"lm": model.heads["lm"]}, image_token_id=model.image_token_id)
    assert composed.tokens_per_tile == model.tokens_per_tile
    assert composed.backbone(torch.zeros(3, tiny.WIDTH), Layout.of_text([3])).shape == (3, tiny.WIDTH)

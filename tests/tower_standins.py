"""Small models with the interfaces of timm and open_clip, which need torchvision and are not installed for tests.

`StandInTimm` and `StandInOpenClip` are the parts with these models; `vision/real_towers.py` tests the libraries.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import tiny
from mmcomponents.vision import OpenClipVision, TimmVision


class Scale(nn.Module):
    """Layer scale, whose initial value a constructor alone would lose on the meta device."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.gamma, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention of one head, with a buffer outside the state dict."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.scale = nn.LayerNorm(width), nn.Linear(width, 3 * width), Scale(width)
        self.proj = nn.Linear(width, width)
        self.register_buffer("weights", torch.empty(width), persistent=False)
        self.init_non_persistent_buffers()

    def init_non_persistent_buffers(self) -> None:
        self.weights.copy_(torch.linspace(0.5, 1.5, len(self.weights)))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x) * self.weights.to(x.dtype)).chunk(3, dim=-1)
        return x + self.scale(self.proj(nn.functional.scaled_dot_product_attention(q, k, v)))


class Transformer(nn.Module):
    """Vision transformer as timm's."""

    num_prefix_tokens = 1

    def __init__(
        self, num_classes: int, img_size: int, width: int = tiny.VISION, depth: int = 3, dynamic_img_size: bool = False
    ) -> None:
        super().__init__()
        self.side = img_size // tiny.PATCH
        self.is_dynamic = dynamic_img_size
        self.patch_embed = nn.Conv2d(3, width, tiny.PATCH, tiny.PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.side**2, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def _embed(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.patch_embed(pixels)
        hw = (x.shape[2], x.shape[3])
        places = self.pos_embed
        if hw != (self.side, self.side):
            assert self.is_dynamic, f"Input height ({pixels.shape[2]}) doesn't match model ({self.side * tiny.PATCH})."
            image = places.transpose(1, 2).unflatten(2, (self.side, self.side))
            places = nn.functional.interpolate(image, hw, mode="bilinear").flatten(2).transpose(1, 2)
        x = x.flatten(2).transpose(1, 2) + places
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1), hw

    def forward_features(self, pixels: Tensor) -> Tensor:
        return self.norm(self.blocks(self._embed(pixels)[0]))

    def forward_intermediates(
        self,
        pixels: Tensor,
        indices: list[int] | int | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor]:
        assert intermediates_only
        assert output_fmt == "NCHW"
        x, hw = self._embed(pixels)
        taken, found = _taken(indices, len(self.blocks)), []
        for number, block in enumerate(self.blocks[: max(taken) + 1] if stop_early else self.blocks):
            x = block(x)
            if number in taken:
                found.append(self.norm(x) if norm else x)
        return [each[:, 1:].transpose(1, 2).unflatten(2, hw) for each in found]


class Stage(nn.Module):
    """Halves the grid; batch norm as in ResNets."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(width_in, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, image: Tensor) -> Tensor:
        return self.bn(self.conv(image)).relu()


class ConvNet(nn.Module):
    """Convolutional network as timm's; its output is channels first or last."""

    def __init__(self, num_classes: int, output_fmt: str = "NCHW") -> None:
        super().__init__()
        self.output_fmt = output_fmt
        self.stages = nn.Sequential(*(Stage(a, b) for a, b in ((3, 8), (8, 12), (12, 16))))
        self.head = nn.Linear(16, num_classes) if num_classes else nn.Identity()

    def forward_features(self, pixels: Tensor) -> Tensor:
        image: Tensor = self.stages(pixels)
        return image.permute(0, 2, 3, 1) if self.output_fmt == "NHWC" else image

    def forward_intermediates(self, pixels: Tensor, indices: Any = None, **_: Any) -> list[Tensor]:
        taken, found = _taken(indices, 3), []
        for number, stage in enumerate(self.stages):
            pixels = stage(pixels)
            if number in taken:
                found.append(pixels)
        return found


class Pyramid(nn.Module):
    """Model whose output is no map."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, 2)

    def forward_features(self, pixels: Tensor) -> list[Tensor]:
        return [self.conv(pixels)]


def _taken(indices: list[int] | int | None, count: int) -> list[int]:
    if indices is None or isinstance(indices, int):
        return list(range(count - (indices or count), count))
    assert all(0 <= number < count for number in indices), "feature index is out of range"
    return indices


_KINDS = {"vit": Transformer, "convnet": ConvNet, "pyramid": Pyramid}


def create_model(
    model_name: str,
    pretrained: bool = False,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    num_classes: int = 1000,
    **arguments: Any,
) -> nn.Module:
    """Makes a model, and loads the weights of the overlay as timm does."""
    model = _KINDS[model_name.partition(".")[0]](num_classes, **arguments)
    assert pretrained == (pretrained_cfg_overlay is not None), "timm would download weights"
    if pretrained_cfg_overlay is not None:
        assert pretrained_cfg_overlay["num_classes"] == num_classes
        model.load_state_dict(pretrained_cfg_overlay["state_dict"])
    return model


def get_pretrained_cfg(model_name: str, allow_unregistered: bool = True) -> Any:
    """Returns the settings of a model; there is one tag of weights, for larger tiles."""
    name, _, tag = model_name.partition(".")
    if tag not in ("", "large"):
        raise RuntimeError(f"Invalid pretrained tag ({tag}) for {name}.")
    side = 2 * tiny.TILE if tag else tiny.TILE
    return SimpleNamespace(input_size=(3, side, side), fixed_input_size=name == "vit")


CLIP = {"embed_dim": 8, "vision_cfg": {"layers": 3, "width": 24, "timm_model_pretrained": True}, "text_cfg": {}}


class ClipTower(Transformer):
    """Vision tower as open_clip's, which has a vector for the class token."""

    def __init__(self, embed_dim: int, image_size: int, width: int, layers: int) -> None:
        super().__init__(0, image_size, width, layers)
        del self.cls_token
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.resblocks = nn.ModuleList(self.blocks)
        del self.blocks
        self.proj = nn.Parameter(torch.zeros(width, embed_dim))

    def forward_intermediates(  # type: ignore[override]
        self,
        pixels: Tensor,
        indices: list[int] | int | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NCHW",
    ) -> dict[str, list[Tensor]]:
        self.cls_token, self.blocks = self.class_embedding[None, None], self.resblocks
        try:
            found = super().forward_intermediates(
                pixels, indices, normalize_intermediates, stop_early, output_fmt, intermediates_only
            )
        finally:
            del self.cls_token, self.blocks
        return {"image_intermediates": found}


def _build_vision_tower(embed_dim: int, vision_cfg: Mapping[str, Any], quick_gelu: bool = False) -> nn.Module:
    assert not vision_cfg["timm_model_pretrained"], "open_clip would download weights"
    kept = {key: value for key, value in vision_cfg.items() if key != "timm_model_pretrained"}
    return ClipTower(embed_dim, **kept)


def _module(name: str, **members: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    return module


MODULES = {
    "timm": _module(
        "timm",
        create_model=create_model,
        get_pretrained_cfg=get_pretrained_cfg,
        is_model=lambda name: name in _KINDS,
        list_models=lambda: [*_KINDS],
    ),
    "open_clip": _module(
        "open_clip",
        list_models=lambda: ["tiny-clip"],
        get_model_config=lambda name: {**CLIP, "vision_cfg": {**CLIP["vision_cfg"], "image_size": tiny.TILE}},
    ),
    "open_clip.model": _module("open_clip.model", _build_vision_tower=_build_vision_tower),
}


def installed() -> AbstractContextManager[Any]:
    """Has the stand-ins imported within the context."""
    return patch.dict(sys.modules, MODULES)


class StandInTimm(TimmVision):
    """`TimmVision` with the models of this file."""

    def __init__(
        self,
        model_name: str,
        out_indices: tuple[int, ...] | None = None,
        image_size: int | None = None,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        with installed():
            super().__init__(model_name, out_indices, image_size, model_args)

    def pretrained(self, tensors: Mapping[str, Tensor], num_classes: int) -> dict[str, Tensor]:
        with installed():
            return super().pretrained(tensors, num_classes)


class StandInOpenClip(OpenClipVision):
    """`OpenClipVision` with the tower of this file."""

    def __init__(
        self, model_name: str, out_indices: tuple[int, ...] | None = None, image_size: int | None = None
    ) -> None:
        with installed():
            super().__init__(model_name, out_indices, image_size)

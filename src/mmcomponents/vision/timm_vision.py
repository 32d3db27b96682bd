"""Models of timm as encoders."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmcomponents.component import stored_tensors
from mmcomponents.limits import check_sizes
from mmcomponents.nn.wrapped import check_fields
from mmcomponents.vision.wrapped_tower import WrappedTower, as_maps

_OWN = (
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args", "checkpoint_path", "cache_dir",
    "features_only", "feature_cls", "out_indices", "num_classes", "img_size", "in_chans", "device", "dtype",
)  # fmt: skip
"""Arguments of `timm.create_model` that the part sets itself, or that read files."""


class TimmVision(WrappedTower):
    """Model of timm by name: vision transformers, ConvNeXt, ResNets, Swin and the other families.

    Its map is the output of `forward_features`, with the norm that follows the last block, without class and register
    tokens; `out_indices` names other maps, as timm's `features_only` does, without that norm. Nothing is downloaded:
    weights are those of a folder of timm (`config.json` and `model.safetensors`), which `model.weights` names; timm
    resizes their positions to the tile size. See `WrappedTower` for batch norms and for what is removed.

    Args:
        model_name: Name in `timm.list_models()`; with the tag of weights, such as `vit_base_patch16_clip_224.openai`,
            the tile size is that of these weights.
        out_indices: Numbers of maps, from shallow to deep; -1 is the last. None: the output of the model.
        image_size: Side of a tile in pixels. None: that of the model.
        model_args: Further arguments of the model, such as `{dynamic_img_size: true}` for tiles of several sizes, or
            `{drop_path_rate: 0.1}`.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: timm has no such model, the model does not take these arguments, or see `WrappedTower`.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: tuple[int, ...] | None = None,
        image_size: int | None = None,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        timm = _timm()
        if ":" in model_name or not timm.is_model(model_name.partition(".")[0]):
            near = get_close_matches(model_name, timm.list_models(), n=3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ValueError(f"timm has no model {model_name!r}{hint}")
        if own := sorted({*_OWN} & {*(model_args or {})}):
            raise ValueError(f"model_args must not have {', '.join(own)}: TimmVision sets or refuses it")
        check_fields(model_args or {})
        try:
            settings = timm.get_pretrained_cfg(model_name, allow_unregistered=False)
        except RuntimeError as error:
            raise ValueError(f"timm has no weights {model_name!r}: {error}") from error
        sides = settings.input_size[1:]
        if image_size is None and sides[0] != sides[1]:
            raise ValueError(f"{model_name} is for images of {sides[0]} x {sides[1]} pixels: give image_size")
        side = int(sides[0]) if image_size is None else image_size
        check_sizes(image_size=side)
        fixed = {"img_size": side} if settings.fixed_input_size else {}
        create = partial(_created, model_name, {**(model_args or {}), **fixed})
        super().__init__(model_name, create, side, out_indices)
        self._create = create
        self.model_name, self.out_indices, self.model_args = model_name, out_indices, model_args

    def tower_output(self, body: Any, pixels: Tensor) -> Tensor:
        """See the base class."""
        hw = (pixels.shape[-2], pixels.shape[-1])
        prefix = int(getattr(body, "num_prefix_tokens", 0))
        is_last = str(getattr(body, "output_fmt", "NCHW")).upper().endswith("NHWC")
        return as_maps(self._name, body.forward_features(pixels), hw, prefix, is_last)

    def tower_maps(self, body: Any, pixels: Tensor, numbers: list[int] | None) -> list[Tensor]:
        """See the base class."""
        maps: list[Tensor] = body.forward_intermediates(
            pixels, indices=numbers, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        return maps

    def pretrained(self, tensors: Mapping[str, Tensor], num_classes: int) -> dict[str, Tensor]:
        """Returns weights of timm by the names of this part, including those that it removes.

        Args:
            tensors: Weights of the whole model, of any shape, by timm's names.
            num_classes: Number of classes of its head.

        Returns:
            Weights by the names of this part, in the shapes of timm's model with this image size.

        Raises:
            ValueError: timm cannot load them into this model.
        """
        overlay = {"state_dict": dict(tensors), "num_classes": num_classes}
        try:
            with torch.device("cpu"):
                model = self._create(num_classes, pretrained=True, pretrained_cfg_overlay=overlay)
        except (RuntimeError, KeyError, AssertionError, ValueError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise ValueError(f"timm cannot load them into {self._name}: {' '.join(lines[:2])}") from error
        return {f"body.{name}": value.detach() for name, value in stored_tensors(model).items()}


def _created(name: str, arguments: dict[str, Any], num_classes: int = 0, **pretrained: Any) -> nn.Module:
    """Returns a model; without `pretrained` of random weights."""
    given = {"pretrained": False, **pretrained, **arguments}
    try:
        model: nn.Module = _timm().create_model(name, num_classes=num_classes, **given)
    except TypeError as error:  # an argument that the model does not take
        raise ValueError(f"{name} does not take model_args {arguments}: {error}") from error
    return model


def _timm() -> Any:
    try:
        import timm  # takes a second, so it is imported on use
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("TimmVision needs timm: pip install 'mmcomponents[timm]'", name="timm") from error
    return timm

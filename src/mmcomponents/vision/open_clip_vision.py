"""Vision towers of open_clip as encoders."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmcomponents.limits import check_sizes
from mmcomponents.vision.wrapped_tower import WrappedTower


class OpenClipVision(WrappedTower):
    """Vision tower of a model of open_clip by name, without its text tower and its projection.

    Its map is the output of the last block after the norm that follows it, without the class token; `out_indices` names
    other maps, without that norm. Nothing is downloaded: weights are those of a folder with
    `open_clip_model.safetensors`, which `model.weights` names. See `WrappedTower` for batch norms and for what is
    removed.

    Args:
        model_name: Name in `open_clip.list_models()`, such as `ViT-B-32`.
        out_indices: Numbers of maps, from shallow to deep; -1 is the last. None: the output of the tower.
        image_size: Side of a tile in pixels. None: that of the model.

    Raises:
        ModuleNotFoundError: open_clip is not installed.
        ValueError: open_clip has no such model, or see `WrappedTower`.
    """

    def __init__(
        self, model_name: str, out_indices: tuple[int, ...] | None = None, image_size: int | None = None
    ) -> None:
        open_clip = _open_clip()
        known = open_clip.list_models()
        if model_name not in known:
            near = get_close_matches(model_name, known, n=3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ValueError(f"open_clip has no model {model_name!r}{hint}")
        config = open_clip.get_model_config(model_name)
        sides: Any = image_size or config["vision_cfg"].get("image_size", 224)
        side = sides[0] if isinstance(sides, list | tuple) else sides
        if sides not in (side, [side, side], (side, side)):
            raise ValueError(f"{model_name} is for images of {sides[0]} x {sides[1]} pixels: give image_size")
        check_sizes(image_size=side)
        config["vision_cfg"] |= {"image_size": side, "timm_model_pretrained": False}
        super().__init__(model_name, partial(_created, config), side, out_indices)
        self.model_name, self.out_indices = model_name, out_indices

    def tower_output(self, body: Any, pixels: Tensor) -> Tensor:
        """See the base class."""
        return self._intermediates(body, pixels, 1, norm=True)[-1]

    def tower_maps(self, body: Any, pixels: Tensor, numbers: list[int] | None) -> list[Tensor]:
        """See the base class."""
        return self._intermediates(body, pixels, numbers, norm=False)

    @staticmethod
    def _intermediates(body: Any, pixels: Tensor, numbers: list[int] | int | None, norm: bool) -> list[Tensor]:
        maps: list[Tensor] = body.forward_intermediates(
            pixels,
            indices=numbers,
            stop_early=True,
            normalize_intermediates=norm,
            intermediates_only=True,
            output_fmt="NCHW",
        )["image_intermediates"]
        return maps

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Draws the class token like a row of a matrix; see the base class."""
        if name == "body.class_embedding":
            nn.init.normal_(value, std=value.shape[-1] ** -0.5, generator=generator)
        else:
            super().init_parameter(name, value, generator)

    def pretrained(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns weights of open_clip by the names of this part.

        Args:
            tensors: Weights of any shape by open_clip's names, of the whole model, or of the tower alone with the
                prefix `visual.`.

        Returns:
            Those of the tower by the names of this part, in the same shapes.
        """
        return {
            f"body.{name.removeprefix('visual.')}": value
            for name, value in tensors.items()
            if name.startswith("visual.")
        }


def _created(config: dict[str, Any]) -> nn.Module:
    """Returns a tower of random weights."""
    from open_clip.model import _build_vision_tower  # the whole model may ask a hub for its text tower

    settings = config["vision_cfg"]
    tower: Any = _build_vision_tower(config["embed_dim"], settings, bool(config.get("quick_gelu", False)))
    if hasattr(tower, "trunk"):  # a model of timm, which is built for a size of its own
        tower.set_input_size(settings["image_size"])
    return cast(nn.Module, tower)


def _open_clip() -> Any:
    try:
        import open_clip  # takes seconds, so it is imported on use
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "OpenClipVision needs open_clip: pip install 'mmcomponents[open_clip]'", name="open_clip"
        ) from error
    return open_clip

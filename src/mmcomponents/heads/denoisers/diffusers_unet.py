"""Denoiser of diffusers, such as that of SDXL, with further latents in its input."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from mmcomponents.component import WiringError
from mmcomponents.heads.denoisers.base import Denoiser
from mmcomponents.nn.pictures import WidenedConv

_TEXT_TIME = "text_time"
_SIZES = 6
"""Numbers of the sizes by which SDXL is conditioned: those of the original, the corner of the crop, the target."""


class DiffusersUNet(Denoiser):
    """`UNet2DConditionModel` of diffusers, conditioned as that of SDXL (arXiv 2307.01952); needs the extra `diffusers`.

    Its first convolution is widened (`WidenedConv`), so that published weights load by the same names:
    `part.unet.load_state_dict(weights, strict=False)` leaves out `conv_in.added` alone. Pictures are declared as
    uncropped, of the size of the latents times `factor`.

    Args:
        config: Arguments of `UNet2DConditionModel`, such as those of SDXL's `config.json`.
        factor: Pixels of a picture along one side of a place of the latents.

    Raises:
        WiringError: The model is not conditioned on a pooled vector and sizes, as SDXL's is.
        ModuleNotFoundError: diffusers is missing.
    """

    latent_size: int | None
    added: ClassVar[int] = 2

    def __init__(self, config: dict[str, Any], factor: int = 8) -> None:
        from diffusers import UNet2DConditionModel

        super().__init__()
        made = UNet2DConditionModel(**config)
        own = made.config
        if own.addition_embed_type != _TEXT_TIME:
            raise WiringError(
                f"DiffusersUNet needs addition_embed_type {_TEXT_TIME!r}, as SDXL has, and the configuration has"
                f" {own.addition_embed_type!r}"
            )
        self.config, self.factor = dict(config), factor
        self.latent_channels, self.latent_size = own.in_channels, own.sample_size
        self.context_width = own.cross_attention_dim
        self.pooled_width = own.projection_class_embeddings_input_dim - _SIZES * own.addition_time_embed_dim
        made.conv_in = WidenedConv(own.in_channels, self.added * own.in_channels, own.block_out_channels[0])
        self.unet = made
        blocks = {type(m) for m in made.modules() if type(m).__name__ in ("ResnetBlock2D", "BasicTransformerBlock")}
        self.shard_units = tuple(sorted(blocks, key=lambda kind: kind.__name__))
        self.init_weights()

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Sets the weight of the latents of reference and layout to zero, see `Component.init_parameter`."""
        if name == "unet.conv_in.added":
            value.zero_()
        else:
            super().init_parameter(name, value, generator)

    def forward(self, latents: Tensor, level: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        """See the base class."""
        dtype = context.dtype
        height, width = (side * self.factor for side in latents.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], device=latents.device, dtype=dtype)
        found: Tensor = self.unet(
            latents.to(dtype),
            level,
            context,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes.expand(len(latents), -1)},
            return_dict=False,
        )[0]
        return found

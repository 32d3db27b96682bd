"""Vision towers of transformers as encoders."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmcomponents.batch import FeatureMap, ImageBatch, PackedBatch, VisualFeatures
from mmcomponents.component import stored_tensors
from mmcomponents.nn.wrapped import (
    Starts,
    check_attention,
    load_whole,
    matrix_flops,
    named_types,
    read_config,
)
from mmcomponents.vision.base import patch_grid
from mmcomponents.vision.block_encoder import BlockEncoder
from mmcomponents.vision.wrapped_tower import remove_unused

_BY_BLOCKS = (
    "clip_vision_model", "chinese_clip_vision_model", "siglip_vision_model", "vit", "deit", "vit_msn", "ijepa",
    "dinov2", "dinov2_with_registers", "internvl_vision",
)  # fmt: skip
"""Models whose layers need the output of the layer before only; others may pass biases, positions or a grid."""


class TransformersVision(BlockEncoder):
    """Vision transformer of transformers with its last or inner hidden states as maps.

    Class token and registers, which precede the patches, are dropped. Modules that do not affect the map are removed at
    construction: pooling heads, a norm for the pooled token alone, mask tokens, layers past the level. They would get
    no gradient, and their weights in a checkpoint are unused.

    Args:
        config: Fields of the tower's configuration with its `model_type`, a local folder or config.json, or the
            name of a model in the hub's cache; the `vision_config` of a composite configuration (CLIP, SigLIP,
            InternVL) is used.
        level: -1 is the last hidden state, with the norm that follows it; another number is an index into the hidden
            states of transformers: 0 the input of the first layer, k the output of layer k, -2 the second to last.
        attn_implementation: Attention of transformers: "sdpa", "eager", "flash_attention_2", …
        trust_remote_code: Whether code in a local folder is executed.
        levels: Several maps instead of `level`, from shallow to deep; -1 can only be the last.

    Raises:
        ValueError: The configuration is unknown, the tower does not have square patches in one grid, or it has not
            these levels.
    """

    def __init__(
        self,
        config: dict[str, Any] | str,
        level: int = -1,
        attn_implementation: str = "sdpa",
        trust_remote_code: bool = False,
        levels: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        check_attention(None, attn_implementation)
        settings = _read(config, trust_remote_code)
        if settings.model_type in ("convnext", "convnextv2"):
            raise ValueError(f"{settings.model_type} has convolutions in place of patches: use TransformersConvNet")
        if settings.model_type == "yolos":
            raise ValueError("yolos has tokens after those of the patches, which are not separated")
        self.image_size = _side(settings, "image_size")
        self.patch_size = _side(settings, "patch_size")
        self._width = int(settings.hidden_size)

        def build() -> Any:
            from transformers import MODEL_MAPPING, AutoModel

            check_attention(MODEL_MAPPING.get(type(settings), None), attn_implementation)
            return AutoModel.from_config(
                settings,
                attn_implementation=attn_implementation,
                dtype=torch.get_default_dtype(),
                trust_remote_code=trust_remote_code,
            )

        self.body = build()
        self._starts = Starts(self.body, self.body._init_weights)
        with torch.device("meta"):
            unused = self._probe(build(), (level,) if levels is None else tuple(levels))
        self.hidden_size = self._width if len(self.levels) == 1 else (self._width,) * len(self.levels)
        remove_unused(self.body, unused)
        self._starts.keep_only(self.body)
        self._resizes = "interpolate_pos_encoding" in inspect.signature(self.body.forward).parameters
        self._layers, self._takes_mask = _stack(self.body)
        self.has_blocks = self._layers is not None
        self.shard_units = named_types(self.body, set(self.body._no_split_modules or ()))
        self.init_weights()

    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of patches.

        Raises:
            ValueError: The tile size is not a multiple of the patch size.
        """
        return patch_grid(pixel_hw, self.patch_size)

    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Encodes tiles `[N, 3, H, W]` as a map `[N, h*w, C]` per level, without the tokens before the patches."""
        hw = self.grid(images.pixel_hw)
        several = {"output_hidden_states": True} if len(self.levels) > 1 else {}
        found = self.body(**self._inputs(self.pixels_of(images)), **several)
        # Layers past the last level were removed, so that the last hidden state is the last level.
        inner = [found.hidden_states[level] for level in self.levels[:-1]]
        maps = [FeatureMap(tokens[:, self.num_prefix :], hw) for tokens in (*inner, found.last_hidden_state)]
        return VisualFeatures(maps, images.context, images.valid_hw)

    def embed(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """See the base class.

        Raises:
            ValueError: The layers of this tower need more than the output of the layer before.
        """
        if not self.has_blocks:
            raise ValueError(f"{type(self.body).__name__} cannot run block by block, only {', '.join(_BY_BLOCKS)}")
        given = self._inputs(pixels)
        found = self.body.embeddings(given.pop("pixel_values"), **given)
        x: Tensor = found[0] if isinstance(found, tuple) else found
        norm = getattr(self.body, "pre_layrnorm", None)
        return x if norm is None else norm(x), self.grid((pixels.shape[-2], pixels.shape[-1]))

    def run_block(self, index: int, x: Tensor, hw: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """See the base class."""
        assert self._layers is not None
        layer = self.body.get_submodule(f"{self._layers}.{index}")
        masked = {"attention_mask": None} if self._takes_mask else {}
        found = layer(x, **masked)
        return (found[0] if isinstance(found, tuple) else found), hw

    def finish(self, x: Tensor) -> Tensor:
        """Computes the norm that follows the last layer, if the last level is -1."""
        norm = next((m for n, m in self.body.named_children() if n in ("layernorm", "post_layernorm", "norm")), None)
        return x if norm is None else norm(x)

    def block_width(self, count: int) -> int:
        """See the base class."""
        return self._width

    def _inputs(self, pixels: Tensor) -> dict[str, Any]:
        """Returns the arguments of the tower for pixels."""
        resizes = self._resizes and tuple(pixels.shape[-2:]) != (self.image_size, self.image_size)
        found: dict[str, Any] = {"pixel_values": pixels.to(next(self.body.parameters()).dtype)}
        return found | ({"interpolate_pos_encoding": True} if resizes else {})

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Initialises vectors as transformers does and matrices as all components do."""
        if not self._starts.draw(name.removeprefix("body."), value, generator):
            super().init_parameter(name, value, generator)

    def init_buffer(self, name: str, value: Tensor) -> bool:
        """Fills a buffer with the value that transformers computes for it."""
        return self._starts.fill(name.removeprefix("body."), value)

    def flops(self, batch: PackedBatch) -> float:
        """Counts the patch embedding, the layers that run, and their attention over all tokens of each tile."""
        if batch.images is None:
            return 0.0
        height, width = self.pixels_of(batch.images).shape[-2:]
        rows, columns = self.grid((height, width))
        tiles, length = batch.images.num_tiles, rows * columns + self.num_prefix
        patches = sum(m.weight.numel() for m in self.body.modules() if isinstance(m, nn.Conv2d))
        attention = 4 * length**2 * self._width * self.num_blocks
        return float(tiles) * (2 * rows * columns * patches + matrix_flops(self.body, length) + attention)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TransformersVision:
        """Moves and casts the weights; buffers outside the state dict keep their values and dtypes."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._starts.restore(self.body)
        return self

    @torch.enable_grad()
    def _probe(self, body: Any, levels: tuple[int, ...]) -> set[str]:
        """Sets what depends on the structure of the tower, and returns the parameters that do not affect the maps.

        Args:
            body: A tower on the meta device.
            levels: See the class.
        """
        side = self.image_size
        try:
            found = body.eval()(pixel_values=torch.zeros(1, 3, side, side), output_hidden_states=True, return_dict=True)
        except RuntimeError as error:
            raise ValueError(f"{type(body).__name__} cannot encode a tile of {side} pixels: {error}") from error
        states, count = found.hidden_states or (), len(found.hidden_states or ())
        for level in levels:
            if level != -1 and not -count <= level < count:
                raise ValueError(f"level {level}: {type(body).__name__} has the hidden states {-count} to {count - 1}")
        # The hidden state after the last layer has no norm, which -1 has.
        self.levels = tuple(level if level >= -1 else count + level for level in levels)
        places = [count if level == -1 else level for level in self.levels]
        if not places or places != sorted(set(places)):
            raise ValueError(f"levels {levels} must increase, -1 being the last")
        rows, columns = self.grid((side, side))
        maps = [found.last_hidden_state if level == -1 else states[level] for level in self.levels]
        for tokens in maps:
            if tokens.ndim != 3 or tokens.shape[1] < rows * columns or tokens.shape[2] != self._width:
                raise ValueError(
                    f"{type(body).__name__} gives {list(tokens.shape[1:])} for {rows} x {columns} patches of width "
                    f"{self._width}: only towers with one token per patch are supported"
                )
        self.num_prefix = int(maps[-1].shape[1]) - rows * columns
        self.num_blocks = min(places[-1], count - 1)
        torch.stack([tokens.sum() for tokens in maps]).sum().backward()
        return {name for name, parameter in body.named_parameters() if parameter.grad is None}


def _stack(body: nn.Module) -> tuple[str | None, bool]:
    """Returns the path of the layers that need the output of the layer before only, and whether they take a mask.

    The path is None for a tower without such layers. Later the forward of a layer may be that of a checkpoint, whose
    arguments say nothing.
    """
    stacks = [name for name, module in body.named_modules() if isinstance(module, nn.ModuleList) and len(module)]
    if getattr(body.config, "model_type", None) not in _BY_BLOCKS or len(stacks) != 1:
        return None, False
    layers = body.get_submodule(stacks[0])
    assert isinstance(layers, nn.ModuleList)
    known = inspect.signature(layers[0].forward).parameters
    return stacks[0], "attention_mask" in known


def _read(config: dict[str, Any] | str, trust_remote_code: bool) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig  # takes seconds, so it is imported on use

    settings = read_config(AutoConfig, CONFIG_MAPPING.keys(), config, trust_remote_code)
    return getattr(settings, "vision_config", settings)


def _side(settings: Any, name: str) -> int:
    """Returns the side of a square in pixels."""
    value = getattr(settings, name, None)
    sides = value if isinstance(value, list | tuple) else [value]
    if len(set(sides)) != 1 or sides[0] is None:
        raise ValueError(f"{settings.model_type} has {name} {value}: only square tiles and patches are supported")
    return int(sides[0])


def pretrained(folder: str | Path, trust_remote_code: bool = False) -> dict[str, Tensor]:
    """Loads the weights of a vision tower from a folder, also from a composite model (CLIP, SigLIP).

    Args:
        folder: Local folder; only safetensors are read.
        trust_remote_code: As in `TransformersVision`.

    Returns:
        Weights, each in its own shape, named `vision.body.*` as in `TransformersVision`, including those that it
        removes.

    Raises:
        ValueError: The folder does not contain such a model, or lacks some of its weights.
    """
    from transformers import MODEL_MAPPING, AutoModel

    settings = _read(str(folder), trust_remote_code)
    kind = MODEL_MAPPING.get(type(settings), AutoModel)
    model = load_whole(kind, folder, settings, trust_remote_code)
    return {f"vision.body.{name}": value for name, value in stored_tensors(model).items()}

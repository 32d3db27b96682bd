"""Towers of other libraries, whose maps and sizes are found by running them on the meta device."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from mmcomponents.batch import FeatureMap, ImageBatch, PackedBatch, VisualFeatures
from mmcomponents.nn.wrapped import PassThrough, Starts
from mmcomponents.vision.base import VisionEncoder, patch_grid


class WrappedTower(VisionEncoder):
    """Module of another library as an encoder; a subclass says how its maps are computed.

    Widths, grids, operations and the tile sizes that the tower takes are measured on the meta device. Modules that do
    not affect the maps are removed at construction: heads, blocks past the last map. They would get no gradient, and
    their weights in a checkpoint are unused. Batch norms keep their statistics, also in training, as samples of a pack
    must not depend on one another; their scale and shift are trained.

    Args:
        name: Name of the tower in messages.
        build: Makes the tower with random weights, on the default device.
        image_size: Side of a tile in pixels.
        out_indices: Numbers of the maps in the list of all maps, from shallow to deep; -1 is the last. None: one map,
            the output of the tower.

    Raises:
        ValueError: The tower does not take such a tile, has not these maps, or they are no grid of equal places.
    """

    def __init__(
        self, name: str, build: Callable[[], nn.Module], image_size: int, out_indices: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self._name, self.image_size = name, image_size
        self.body = build()
        self._starts = Starts(self.body, _reset)
        with torch.device("meta"):
            probe = build().eval()
        self._numbers = None if out_indices is None else self._numbers_of(probe, tuple(out_indices))
        unused = self._measure(probe)
        remove_unused(self.body, unused)
        self._starts.keep_only(self.body)
        self.shard_units = repeated_types(self.body)
        self.init_weights()

    @abstractmethod
    def tower_output(self, body: nn.Module, pixels: Tensor) -> Tensor:
        """Computes the output of the tower for tiles `[N, 3, H, W]`, a map `[N, C, h, w]`."""

    @abstractmethod
    def tower_maps(self, body: nn.Module, pixels: Tensor, numbers: list[int] | None) -> list[Tensor]:
        """Computes maps of the tower.

        Args:
            body: The tower.
            pixels: `[N, 3, H, W]`.
            numbers: Ascending numbers of the maps in the list of all maps. None: all of them.

        Returns:
            `[N, C, h, w]` for each number.
        """

    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        """Returns rows and columns of the last map.

        Raises:
            ValueError: The tower does not take tiles of this size.
        """
        side = self.image_size
        if self._is_fixed and tuple(pixel_hw) != (side, side):
            raise ValueError(
                f"{self._name} takes tiles of {side} x {side} pixels, not {pixel_hw[0]} x {pixel_hw[1]}: its positions"
                " are of one size"
            )
        patch_grid(pixel_hw, max(self._strides))
        return patch_grid(pixel_hw, self._strides[-1])

    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Encodes tiles `[N, 3, H, W]` as maps `[N, h*w, C]`, from shallow to deep."""
        pixels = self.pixels_of(images)
        self.grid((pixels.shape[-2], pixels.shape[-1]))
        maps = self._maps(self.body, pixels.to(next(self.body.parameters()).dtype))
        found = [FeatureMap(m.flatten(2).transpose(1, 2), (m.shape[2], m.shape[3])) for m in maps]
        return VisualFeatures(found, images.context, images.valid_hw)

    def train(self, mode: bool = True) -> WrappedTower:
        """Sets the mode of all modules but batch norms, which stay in evaluation mode."""
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Initialises vectors as the library does and matrices as all components do."""
        if not self._starts.draw(name.removeprefix("body."), value, generator):
            super().init_parameter(name, value, generator)

    def init_buffer(self, name: str, value: Tensor) -> bool:
        """Fills a buffer with the value that the library computes for it."""
        return self._starts.fill(name.removeprefix("body."), value)

    def flops(self, batch: PackedBatch) -> float:
        """Returns what was counted for a tile of `image_size`, in proportion to the area of other tiles."""
        if batch.images is None:
            return 0.0
        height, width = batch.images.pixel_hw
        return self._flops * batch.images.num_tiles * height * width / self.image_size**2

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WrappedTower:
        """Moves and casts the weights; buffers outside the state dict keep their values."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._starts.restore(self.body, dtypes=False)  # timm itself keeps frequencies in fp32, and casts masks
        return self

    def _maps(self, body: nn.Module, pixels: Tensor) -> list[Tensor]:
        if self._numbers is None:
            return [self.tower_output(body, pixels)]
        return self.tower_maps(body, pixels, self._numbers)

    def _numbers_of(self, probe: nn.Module, out_indices: tuple[int, ...]) -> list[int]:
        """Returns the numbers of maps, counted from the front."""
        count = len(self._tried(lambda: self.tower_maps(probe, _blank(self.image_size), None)))
        numbers = [number + count if number < 0 else number for number in out_indices]
        if not numbers or numbers != sorted(set(numbers)) or not 0 <= numbers[0] <= numbers[-1] < count:
            raise ValueError(
                f"out_indices {out_indices} must be ascending numbers of the maps of {self._name}, -{count} to"
                f" {count - 1}"
            )
        return numbers

    @torch.enable_grad()
    def _measure(self, probe: nn.Module) -> set[str]:
        """Sets what depends on the structure of the tower, and returns the parameters that do not affect the maps."""
        side = self.image_size
        with FlopCounterMode(display=False) as counter:
            maps = self._tried(lambda: self._maps(probe, _blank(side)))
        self._flops = float(counter.get_total_flops())
        self._strides, widths = [], []
        for found in maps:
            shape = tuple(found.shape)
            stride = side // shape[2] if len(shape) == 4 and shape[2] else 0
            if shape[2:] != (shape[2], shape[2]) or stride * shape[2] != side:
                raise ValueError(
                    f"{self._name} gives {list(shape)} for a tile of {side} x {side} pixels: its places do not"
                    " divide it evenly"
                )
            self._strides.append(stride)
            widths.append(shape[1])
        self.hidden_size = widths[0] if len(widths) == 1 else tuple(widths)
        torch.stack([found.sum() for found in maps]).sum().backward()
        try:
            self._tried(lambda: self._maps(probe, _blank(2 * side, side)))
        except ValueError:
            self._is_fixed = True
        else:
            self._is_fixed = False
        return {name for name, parameter in probe.named_parameters() if parameter.grad is None}

    def _tried(self, run: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Runs the tower, whose own errors are of many types.

        Raises:
            ValueError: It fails.
        """
        try:
            return run()
        except (ValueError, TypeError, RuntimeError, AssertionError, AttributeError, NotImplementedError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            side = self.image_size
            raise ValueError(f"{self._name} cannot encode a tile of {side} x {side} pixels: {reason}") from error


def as_maps(name: str, found: Any, hw: tuple[int, int], num_prefix: int, is_last: bool) -> Tensor:
    """Returns the output of a tower as a map `[N, C, h, w]`.

    Args:
        name: Name of the tower.
        found: Tokens `[N, num_prefix + h*w, C]`, or a map.
        hw: Height and width of the tile in pixels.
        num_prefix: Number of tokens before those of the patches.
        is_last: Whether the channels of a map are its last dimension.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(found, Tensor) and found.ndim == 4:
        return found.permute(0, 3, 1, 2) if is_last else found
    if isinstance(found, Tensor) and found.ndim == 3:
        count = found.shape[1] - num_prefix
        rows = round(math.sqrt(count * hw[0] / hw[1])) if count > 0 else 0
        if rows and rows * (columns := count // rows) == count:
            image: Tensor = found[:, num_prefix:].transpose(1, 2).unflatten(2, (rows, columns))
            return image
    given = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
    raise ValueError(f"{name} gives {given}, which is no map: name maps by out_indices")


def remove_unused(module: nn.Module, unused: set[str], prefix: str = "") -> None:
    """Replaces modules whose parameters are all unused, and removes other unused parameters.

    A parameter without elements (no registers) becomes a buffer, as it cannot be sharded or trained.
    """
    for name, child in list(module.named_children()):
        names = {f"{prefix}{name}.{n}" for n, _ in child.named_parameters()}
        if names and names <= unused:
            setattr(module, name, PassThrough())
        else:
            remove_unused(child, unused, f"{prefix}{name}.")
    for name, parameter in list(module.named_parameters(recurse=False)):
        if prefix + name in unused:
            module.register_parameter(name, None)
        elif parameter.numel() == 0:
            delattr(module, name)
            module.register_buffer(name, parameter.detach(), persistent=False)


def repeated_types(body: nn.Module) -> tuple[type[nn.Module], ...]:
    """Returns the types of a tower's blocks: modules that occur several times and contain no sequence of such modules.

    Of modules within one another the outermost count; those of torch and those without modules of their own do not.
    """
    counts = Counter(type(module) for module in body.modules())

    def is_block(module: nn.Module) -> bool:
        kind = type(module)
        return counts[kind] > 1 and not kind.__module__.startswith("torch.") and any(True for _ in module.children())

    def is_stack(module: nn.Module) -> bool:
        items = list(module.children()) if isinstance(module, nn.Sequential | nn.ModuleList) else []
        return len(items) > 1 and len({type(item) for item in items}) == 1 and is_block(items[0])

    def outermost(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if is_block(child) and not any(is_stack(inner) for inner in child.modules()):
                yield child
            else:
                yield from outermost(child)

    units = list(outermost(body))
    within = {type(inner) for unit in units for inner in unit.modules() if inner is not unit}
    return tuple(sorted({type(unit) for unit in units} - within, key=lambda kind: kind.__name__))


def _blank(height: int, width: int | None = None) -> Tensor:
    return torch.zeros(1, 3, height, width or height, device="meta")


def _reset(module: nn.Module) -> None:
    """Fills the tensors of a module by the methods that timm and torch call so."""
    for name in ("reset_parameters", "init_non_persistent_buffers"):
        method = getattr(module, name, None)
        if method is not None:
            method()

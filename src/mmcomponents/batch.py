"""Data types passed between components.

A pack is a concatenation of segments; a segment is one conversation (or one answer with its prompt). There is neither
padding nor an attention mask: the segment boundaries are integers. Shapes use T for the tokens of a pack, S for its
segments, R for visual tokens, N for image tiles and H, W for pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import IntEnum
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmcomponents.moved import moved_attribute

IGNORE = -100
"""Label of a position without a target."""

TICKS = 256
"""Number of position ticks per position; the smallest step of V2PE is 1/256."""


class TokenType(IntEnum):
    """Type of a position of the sequence."""

    PAD = 0
    TEXT = 1
    IMAGE = 2
    IMAGE_GEN = 3
    QUERY = 4
    ACTION = 5
    TIME = 6
    EXTERNAL = 7


class Exact:
    """Tensors that are moved and pinned but never cast.

    Precision plugins cast every float tensor in a batch or among the arguments of a module, dataclasses included. They
    do not look inside a plain class, so rotary tables and reference log-probabilities keep their precision.

    Args:
        tensors: One or more tensors that belong together, such as cosine and sine.
    """

    __slots__ = ("tensors",)

    def __init__(self, *tensors: Tensor) -> None:
        if not tensors:
            raise ValueError("Exact needs at least one tensor")
        self.tensors = tensors

    @property
    def tensor(self) -> Tensor:
        """The only tensor; raises `ValueError` if there are several."""
        if len(self.tensors) != 1:
            raise ValueError(f"this Exact holds {len(self.tensors)} tensors, not one; unpack it")
        return self.tensors[0]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Exact:
        """Returns a copy on `device`. Takes no dtype, so that a cast is not possible."""
        return Exact(*(t.to(torch.device(device), non_blocking=non_blocking) for t in self.tensors))

    def pin_memory(self) -> Exact:
        """Returns a copy in pinned memory."""
        return Exact(*(t.pin_memory() for t in self.tensors))

    def __repr__(self) -> str:
        return f"Exact({', '.join(f'{t.dtype} {list(t.shape)}' for t in self.tensors)})"


_D = TypeVar("_D")


def _map_tensors(value: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    if isinstance(value, Tensor | Exact):
        return getattr(value, method)(*args, **kwargs)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(
            **{f.name: _map_tensors(getattr(value, f.name), method, *args, **kwargs) for f in fields(value)}
        )
    return value


class _Movable:
    """Provides `to` and `pin_memory` for dataclasses of tensors; other values are kept unchanged."""

    def to(self: _D, device: torch.device | str, non_blocking: bool | None = None) -> _D:
        """Returns a copy on `device` without casting. Copies to a GPU are non-blocking by default."""
        device = torch.device(device)
        non_blocking = device.type == "cuda" if non_blocking is None else non_blocking
        moved: _D = _map_tensors(self, "to", device, non_blocking=non_blocking)
        return moved

    def pin_memory(self: _D) -> _D:
        """Returns a copy in pinned memory."""
        pinned: _D = _map_tensors(self, "pin_memory")
        return pinned


@dataclass
class Layout(_Movable):
    """Structure of a pack. All fields are integers, so that no precision setting changes a position.

    Attributes:
        token_type: `[T]` `TokenType` of each position.
        cu_seqlens: `[S+1]` int32, segment boundaries, 0 first and T last.
        max_seqlen: Length of the longest segment.
        image_id: `[T]` index of the image at a visual position (all tiles of an image share it), -1 elsewhere.
        grid: `[n_images, 3]` frames, rows and columns of each image's token grid.
        delta_log2: `[n_images]` exponent k of V2PE for each image, delta = 2**-k; None: the position's own delta.
        last_ticks: `[S]` int64, only while decoding: position of the last cached token of each segment.
        prefill_len: `[S]` int64, only while decoding: length of each segment at prefill, for a rotary base that depends
            on the length.
    """

    token_type: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    image_id: Tensor
    grid: Tensor
    delta_log2: Tensor | None = None
    last_ticks: Tensor | None = None
    prefill_len: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """T, the number of tokens in all segments."""
        return int(self.token_type.shape[0])

    @property
    def num_segments(self) -> int:
        """S, the number of segments."""
        return int(self.cu_seqlens.shape[0]) - 1

    def segment_of_token(self) -> Tensor:
        """Returns the index of the segment of each position, `[T]` int64."""
        segments = torch.arange(self.num_segments, device=self.cu_seqlens.device)
        return segments.repeat_interleave(self.cu_seqlens.diff().long(), output_size=self.num_tokens)


@dataclass
class ImageBatch(_Movable):
    """Tiles of a pack, or of any set of images.

    Attributes:
        pixels: `[N, 3, H, W]`, normalised.
        tile_image: `[N]` index of the image of each tile.
        context: `[N, c]` features that condition a merger, or None.
    """

    pixels: Tensor
    tile_image: Tensor
    context: Tensor | None = None

    @property
    def pixel_hw(self) -> tuple[int, int]:
        """Height and width of a tile in pixels."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])


@dataclass
class Pairs(_Movable):
    """Preference pairs of two segments of the pack each.

    Attributes:
        chosen: `[P]` segment indices.
        rejected: `[P]` segment indices.
        reference_logps: `Exact` of `[P, 2]` fp32 (chosen, rejected) sums of log-probabilities under the reference.
    """

    chosen: Tensor
    rejected: Tensor
    reference_logps: Exact | None = None


@dataclass
class Steps(_Movable):
    """Scored steps of solutions.

    Attributes:
        score_at: `[n]` token index at which each step is scored.
        sample: `[n]` sample of each step.
        label: `[n]` label of each step.
    """

    score_at: Tensor
    sample: Tensor
    label: Tensor


@dataclass
class PackedBatch(_Movable):
    """One pack: the input sequence of the backbone.

    Attributes:
        input_ids: `[T]` int64.
        layout: Boundaries, token types and images of the pack.
        visual_index: `[T]` index of the visual token at each position, -1 for none. Positions may share a visual token.
        labels: `[T]` target of each position: the next token of its segment, `IGNORE` where there is none.
        segment_sample: `[S]` index of the sample of each segment.
        segment_source: `[S]` index of the source of each segment.
        keys: Shard and key of each segment.
        images: Tiles; None for text only.
        pairs: Preference pairs, or None.
        steps: Scored steps, or None.
        refused: Samples skipped for this pack, as "shard/key: reason".
        totals: Sums of the objective's counts over the accumulation window and all ranks; None without lookahead.
        window: Other packs of the accumulation window, set on its first pack only (empty if it is the only one), for
            objectives that need all packs of a step. None on the other packs. `to` leaves them on the CPU.
    """

    input_ids: Tensor
    layout: Layout
    visual_index: Tensor
    labels: Tensor
    segment_sample: Tensor
    segment_source: Tensor
    keys: list[str]
    images: ImageBatch | None = None
    pairs: Pairs | None = None
    steps: Steps | None = None
    refused: list[str] = field(default_factory=list)
    totals: dict[str, float] | None = None
    window: list[PackedBatch] | None = None

    @property
    def num_tokens(self) -> int:
        """T, the number of tokens."""
        return int(self.input_ids.shape[0])

    @property
    def num_segments(self) -> int:
        """S, the number of segments."""
        return self.layout.num_segments


@dataclass
class FeatureMap:
    """Grid of features per tile: tokens `[N, h*w, C]` in row-major order, height and width of the grid, and a name."""

    tokens: Tensor
    hw: tuple[int, int]
    name: str = ""


@dataclass
class VisualFeatures:
    """Feature maps of one encoder, from shallow to deep; the last one is the primary map.

    Attributes:
        maps: One or more maps.
        context: `[N, c]`, copied from the images.
    """

    maps: list[FeatureMap]
    context: Tensor | None = None

    @property
    def primary(self) -> FeatureMap:
        """The deepest map."""
        return self.maps[-1]


@dataclass
class ModelState:
    """Intermediate results of a forward pass, for heads, objectives and samplers.

    Attributes:
        visual: Features of the encoder after fuser and merger; None without images.
        visual_tokens: `[R, d]` visual tokens of all images; None without images.
        embeds: `[T, d]` input of the backbone.
        hidden: `[T, d]` output of the backbone.
    """

    visual: VisualFeatures | None = None
    visual_tokens: Tensor | None = None
    embeds: Tensor | None = None
    hidden: Tensor | None = None


@dataclass
class LossOutput:
    """Loss to differentiate and named scalars to log.

    Attributes:
        total: Scalar, already divided by the totals of the step.
        parts: Detached scalars by name.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


def __getattr__(name: str) -> Any:
    return moved_attribute(__name__, name)

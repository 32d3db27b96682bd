"""The types that every part speaks.

A pack is a concatenation of segments; a segment is one conversation (or one answer with its prompt). Nothing here is
padded and nothing holds an attention mask: the borders of the segments are integers. Shapes use T for the tokens of a
pack, S for its segments, R for the rows of the visual table, N for image tiles and H, W for pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mmcomponents.nn.cache import KVCache

IGNORE = -100
"""Label of a position that has no target."""

TICKS = 256
"""Position ticks of one whole position: the smallest step of V2PE is 1/256."""


class TokenType(IntEnum):
    """What a position of the sequence holds."""

    PAD = 0
    TEXT = 1
    IMAGE = 2
    IMAGE_GEN = 3
    QUERY = 4
    ACTION = 5
    TIME = 6
    EXTERNAL = 7


class Exact:
    """Tensors that are moved and pinned, and never cast.

    Precision plugins cast every float tensor that they find in a batch or among the arguments of a module, dataclasses
    included. A plain class is opaque to them, so rotary tables and reference log-probabilities keep their digits.

    Args:
        tensors: One tensor or several that belong together, such as cosine and sine.
    """

    __slots__ = ("tensors",)

    def __init__(self, *tensors: Tensor) -> None:
        if not tensors:
            raise ValueError("Exact needs at least one tensor")
        self.tensors = tensors

    @property
    def tensor(self) -> Tensor:
        """The tensor, where there is just one."""
        if len(self.tensors) != 1:
            raise ValueError(f"this Exact holds {len(self.tensors)} tensors, not one; unpack it")
        return self.tensors[0]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Exact:
        """Returns a copy on a device. A dtype is no argument here, on purpose."""
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
    """`to` and `pin_memory` for dataclasses of tensors; whatever is no tensor stays as it is."""

    def to(self: _D, device: torch.device | str, non_blocking: bool | None = None) -> _D:
        """Returns a copy on `device`. Nothing is cast. Copies to a GPU do not block unless asked to."""
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
    """Where things are in a pack. Integers only, so no precision setting can move a position.

    Attributes:
        token_type: `[T]` `TokenType` of each position.
        cu_seqlens: `[S+1]` int32, the borders of the segments, 0 first and T last.
        max_seqlen: Length of the longest segment.
        image_id: `[T]` number of the image at a visual position (all tiles of an image share it), -1 elsewhere.
        grid: `[n_images, 3]` frames, rows and columns of each image's token grid.
        delta_log2: `[n_images]` V2PE's k for each image, delta = 2**-k; None: the position part's own delta.
        last_ticks: `[S]` int64, while decoding only: position of the last cached token of each segment.
        prefill_len: `[S]` int64, while decoding only: length of each segment at its prefill, which sets a base that
            depends on the length.
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
        """T, over all segments."""
        return int(self.token_type.shape[0])

    @property
    def num_segments(self) -> int:
        """S."""
        return int(self.cu_seqlens.shape[0]) - 1

    def segment_of_token(self) -> Tensor:
        """Number of the segment at each position, `[T]` int64."""
        segments = torch.arange(self.num_segments, device=self.cu_seqlens.device)
        return segments.repeat_interleave(self.cu_seqlens.diff().long(), output_size=self.num_tokens)


@dataclass
class ImageBatch(_Movable):
    """The tiles of a pack, or of any set of images.

    Attributes:
        pixels: `[N, 3, H, W]`, normalised.
        tile_image: `[N]` number of the image that each tile belongs to.
        context: `[N, c]` features that condition a merger on something else, or None.
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
    """Preference pairs: two segments of the pack each.

    Attributes:
        chosen: `[P]` segment numbers.
        rejected: `[P]` segment numbers.
        reference_logps: `Exact` of `[P, 2]` fp32 (chosen, rejected) sums of log-probabilities under the reference.
    """

    chosen: Tensor
    rejected: Tensor
    reference_logps: Exact | None = None


@dataclass
class Steps(_Movable):
    """Scored steps of solutions.

    Attributes:
        score_at: `[n]` token index at which a step is scored.
        sample: `[n]` sample that the step belongs to.
        label: `[n]` label of the step.
    """

    score_at: Tensor
    sample: Tensor
    label: Tensor


@dataclass
class PackedBatch(_Movable):
    """One pack: what the backbone's sequence is, and nothing else.

    Attributes:
        input_ids: `[T]` int64.
        layout: Borders, types and images of the pack.
        visual_index: `[T]` row of the visual table at each position, -1 for none. Positions may share a row.
        labels: `[T]` the target of each position: the token after it within its segment, `IGNORE` where there is none.
        segment_sample: `[S]` number of the sample that each segment comes from.
        segment_source: `[S]` number of the source that each segment comes from.
        keys: Shard and key of each segment.
        images: The tiles, None for text alone.
        pairs: Preference pairs, or None.
        steps: Scored steps, or None.
        refused: Samples that were left out of this pack, as "shard/key: reason".
        totals: Sums of the objective's counts over the accumulation window and all ranks; None: not looked ahead.
        window: The other packs of the accumulation window, on its first pack alone (none where it is the only one), for
            objectives that need to see a whole step. None on the others. `to` leaves them on the CPU.
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
        """T."""
        return int(self.input_ids.shape[0])

    @property
    def num_segments(self) -> int:
        """S."""
        return self.layout.num_segments


@dataclass
class FeatureMap:
    """One grid of features for each tile: tokens `[N, h*w, C]` row by row, its height and width, and a name."""

    tokens: Tensor
    hw: tuple[int, int]
    name: str = ""


@dataclass
class VisualFeatures:
    """Feature maps of one encoder, shallow to deep; the last one is the primary.

    Attributes:
        maps: At least one map.
        context: `[N, c]`, passed on from the images.
    """

    maps: list[FeatureMap]
    context: Tensor | None = None

    @property
    def primary(self) -> FeatureMap:
        """The deepest map."""
        return self.maps[-1]


@dataclass
class Runtime:
    """What a sampler or an objective adds for one call of the model.

    Attributes:
        cache: Keys and values of earlier calls; filled during the call.
        visual_rows: `[R, d]` rows that were encoded before: the encoder is skipped.
        rows: `{type: [n, d]}` rows that are put at the positions of a token type, in order.
    """

    cache: KVCache | None = None
    visual_rows: Tensor | None = None
    rows: dict[TokenType, Tensor] = field(default_factory=dict)


@dataclass
class ModelState:
    """What the model has computed on its way, for heads, objectives and samplers.

    Attributes:
        visual: Features of the encoder (after fuser and merger), None without images.
        rows: `[R, d]` the visual table, None without images.
        embeds: `[T, d]` the sequence before the backbone.
        hidden: `[T, d]` the sequence after the backbone.
    """

    visual: VisualFeatures | None = None
    rows: Tensor | None = None
    embeds: Tensor | None = None
    hidden: Tensor | None = None


@dataclass
class LossOutput:
    """Loss to differentiate, and named scalars to log.

    Attributes:
        total: Scalar, already divided by the totals of the step.
        parts: Detached scalars by name.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)

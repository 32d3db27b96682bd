"""Data types passed between components.

A pack is a concatenation of segments; a segment is one conversation (or one answer with its prompt). There is neither
padding nor an attention mask: the segment boundaries are integers. Shapes use T for the tokens of a pack, S for its
segments, R for visual tokens, N for image tiles and H, W for pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcomponents.draws import keyed
from mmcomponents.extras import Extra, Place
from mmcomponents.movable import Exact as Exact
from mmcomponents.movable import Movable
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


def _are_tensors(*values: object) -> bool:
    """Whether shapes can be compared: trees of torch (`torch.export`, `tree_map`) put other values into fields."""
    return all(isinstance(value, Tensor) for value in values)


@dataclass
class Layout(Movable):
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

    Raises:
        ValueError: `token_type` and `image_id` differ in length, or `delta_log2` and `grid` in the number of images.
    """

    token_type: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    image_id: Tensor
    grid: Tensor
    delta_log2: Tensor | None = None
    last_ticks: Tensor | None = None
    prefill_len: Tensor | None = None

    def __post_init__(self) -> None:
        if _are_tensors(self.token_type, self.image_id) and self.token_type.shape != self.image_id.shape:
            shapes = list(self.token_type.shape), list(self.image_id.shape)
            raise ValueError(
                f"token_type is {shapes[0]} and image_id {shapes[1]}: each has one value for each position"
            )
        if self.delta_log2 is None or not _are_tensors(self.delta_log2, self.grid):
            return
        if self.delta_log2.shape != self.grid.shape[:1]:
            raise ValueError(f"delta_log2 is {list(self.delta_log2.shape)} and grid is of {len(self.grid)} images")

    @classmethod
    def of_text(cls, lengths: Iterable[int], device: torch.device | str | None = None) -> Layout:
        """Returns the layout of segments of text.

        Args:
            lengths: Number of tokens of each segment.
            device: Device of the tensors.

        Raises:
            ValueError: There is no segment, or one without tokens.
        """
        sizes = [int(size) for size in lengths]
        if min(sizes, default=0) < 1:
            raise ValueError(f"lengths are the numbers of tokens of one or more segments, each at least 1, got {sizes}")
        text = torch.full((sum(sizes),), int(TokenType.TEXT), device=device)
        return cls(
            token_type=text,
            cu_seqlens=torch.tensor([0, *sizes], device=device).cumsum(0).int(),
            max_seqlen=max(sizes),
            image_id=torch.full_like(text, -1),
            grid=text.new_zeros(0, 3),
        )

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
class ImageBatch(Movable):
    """Tiles of a pack, or of any set of images: their pixels, or the ids of an image tokenizer.

    Attributes:
        pixels: `[N, 3, H, W]`, normalised; None if there are ids.
        tile_image: `[N]` index of the image of each tile.
        context: `[N, c]` features that condition a merger, or None.
        vq_ids: `[N, h, w]` int64 ids of a vector-quantised image tokenizer; None if there are pixels.
        valid_hw: `[N, 2]` int64 height and width of the part of each tile that is not padding, for tiles of unequal
            images; None: all of it.

    Raises:
        ValueError: There are both pixels and ids, or neither, or `tile_image` has not one index for each tile.
    """

    pixels: Tensor | None
    tile_image: Tensor
    context: Tensor | None = None
    vq_ids: Tensor | None = None
    valid_hw: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.pixels is None) == (self.vq_ids is None):
            raise ValueError(f"images are pixels or vq_ids, got {'neither' if self.pixels is None else 'both'}")
        tiles = self.vq_ids if self.pixels is None else self.pixels
        if isinstance(tiles, Tensor) and _are_tensors(self.tile_image) and self.tile_image.shape != tiles.shape[:1]:
            shown = list(self.tile_image.shape)
            raise ValueError(f"tile_image is {shown}: it has the index of the image of each of the {len(tiles)} tiles")

    @property
    def num_tiles(self) -> int:
        """N, the number of tiles."""
        return int(self.tile_image.shape[0])

    @property
    def pixel_hw(self) -> tuple[int, int]:
        """Height and width of a tile in pixels.

        Raises:
            ValueError: The images are ids of an image tokenizer.
        """
        pixels = self.require_pixels()
        return int(pixels.shape[-2]), int(pixels.shape[-1])

    def require_pixels(self) -> Tensor:
        """Returns the pixels `[N, 3, H, W]`, normalised floating-point numbers.

        Raises:
            TypeError: They are no tensor.
            ValueError: The images are ids of an image tokenizer, or the pixels are integers.
        """
        if self.pixels is None:
            raise ValueError("the images are ids of an image tokenizer (vq_ids), where pixels are needed")
        if not isinstance(self.pixels, Tensor):
            raise TypeError(f"pixels are a {type(self.pixels).__name__}, not a tensor [N, 3, H, W]")
        if not self.pixels.is_floating_point():
            raise ValueError(f"pixels are {self.pixels.dtype}: they are normalised floating-point numbers")
        return self.pixels


@dataclass
class Pairs(Extra):
    """Preference pairs of two segments of the pack each.

    Attributes:
        chosen: `[P]` segment indices.
        rejected: `[P]` segment indices.
        reference_logps: `Exact` of `[P, 2]` fp32 (chosen, rejected) sums of log-probabilities under the reference.
    """

    chosen: Tensor
    rejected: Tensor
    reference_logps: Exact | None = None

    def placed(self, place: Place) -> Pairs:
        """Returns the pairs with the indices of their segments in the pack."""
        return replace(self, chosen=self.chosen + place.segment, rejected=self.rejected + place.segment)


@dataclass
class Steps(Extra):
    """Scored steps of solutions.

    Attributes:
        score_at: `[n]` token index at which each step is scored.
        sample: `[n]` segment of each step.
        label: `[n]` label of each step.
    """

    score_at: Tensor
    sample: Tensor
    label: Tensor

    @classmethod
    def of(cls, score_at: Sequence[int] = (), sample: Sequence[int] = (), label: Sequence[int] = ()) -> Steps:
        """Makes the int64 tensors; without arguments, those of a pack without steps."""
        return cls(*(torch.tensor(list(column), dtype=torch.int64) for column in (score_at, sample, label)))

    def placed(self, place: Place) -> Steps:
        """Returns the steps with the indices of their tokens and segments in the pack.

        Raises:
            ValueError: A step is scored outside of its segment.
        """
        if bool(((self.score_at < 0) | (self.score_at >= place.tokens)).any()):
            raise ValueError(f"steps at {self.score_at.tolist()[:8]} in a segment of {place.tokens} tokens")
        return replace(self, score_at=self.score_at + place.start, sample=self.sample + place.segment)


@dataclass
class PackedBatch(Movable):
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
        extras: Further fields by name, which record kinds define. Other attributes than those listed here cannot be
            set.
        refused: Samples skipped for this pack, as "shard/key: reason".
        totals: Sums of the objective's counts over the accumulation window and all ranks; None without lookahead.
        window: Other packs of the accumulation window, set on its first pack only (empty if it is the only one), for
            objectives that need all packs of a step. None on the other packs. `to` leaves them on the CPU.
        seed: Seed of the data, see `generators`.
        epoch: Epoch of the data, likewise.
        segment_copy: `[S]` number of earlier occurrences of each segment's sample in the epoch; None: the first.
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
    extras: dict[str, Extra] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    totals: dict[str, float] | None = None
    window: list[PackedBatch] | None = None
    seed: int = 0
    epoch: int = 0
    segment_copy: Tensor | None = None

    def _remedy(self) -> str:
        return ": a record kind adds a field as an Extra in `extras`, which copies of the pack keep"

    def generators(self, *words: object) -> list[np.random.Generator]:
        """Returns a random generator for each segment, for draws inside an objective.

        It depends on the seed, the epoch, the sample, the number of the sample's earlier occurrences in the epoch, the
        number of the segment among those of this occurrence, and the words. So draws are equal on any number of ranks
        and after a resumption, and new in each epoch. Reads integers of the pack, which synchronises with the device on
        a GPU.

        Args:
            words: Name of the draw, such as "noise", and anything else that it depends on.
        """
        samples = self.segment_sample.tolist()
        copies = [0] * len(samples) if self.segment_copy is None else self.segment_copy.tolist()
        seen: Counter[tuple[int, int]] = Counter()
        found = []
        for key in zip(samples, copies, strict=True):
            found.append(keyed(self.seed, self.epoch, *key, seen[key], *words))
            seen[key] += 1
        return found

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
    """Grid of features per tile.

    Attributes:
        tokens: `[N, h*w, C]` in row-major order.
        hw: Rows and columns of the grid.
        name: Name of the level, for people; empty if it has none.
        valid_hw: `[N, 2]` int64 rows and columns of the part of each tile that is not padding, for tiles of unequal
            images; None: all of it, or the encoder does not tell.

    Raises:
        TypeError: `hw` is no tuple.
        ValueError: `tokens` has another shape.
    """

    tokens: Tensor
    hw: tuple[int, int]
    name: str = ""
    valid_hw: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.hw, tuple | list):
            raise TypeError(f"hw is (rows, columns), got {self.hw!r}")
        if not _are_tensors(self.tokens) or not all(isinstance(size, int) for size in self.hw):
            return
        rows, columns = self.hw
        if self.tokens.ndim != 3 or self.tokens.shape[1] != rows * columns:
            shape = list(self.tokens.shape)
            raise ValueError(f"tokens of a map of {rows} x {columns} are [N, {rows * columns}, C], got {shape}")


@dataclass
class VisualFeatures:
    """Feature maps of one encoder, from shallow to deep; the last one is the primary map.

    Attributes:
        maps: One or more maps.
        context: `[N, c]`, copied from the images.
        valid_hw: `[N, 2]`, copied from the images.
        vq_ids: `[N, h, w]` ids that an encoder of ids has embedded; None for other encoders.

    Raises:
        TypeError: `maps` is no list, or has a tensor in place of a feature map.
        ValueError: There is no map.
    """

    maps: list[FeatureMap]
    context: Tensor | None = None
    valid_hw: Tensor | None = None
    vq_ids: Tensor | None = None

    def __post_init__(self) -> None:
        is_list = isinstance(self.maps, list | tuple)
        wrong = [m for m in self.maps if isinstance(m, Tensor)] if is_list else [self.maps]
        if wrong:
            given = f"{'a list with ' if is_list else ''}a {type(wrong[0]).__name__}"
            raise TypeError(f"maps is a list of FeatureMap(tokens, (rows, columns)), got {given}")
        if not self.maps:
            raise ValueError("maps is empty: an encoder has one feature map or more")

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

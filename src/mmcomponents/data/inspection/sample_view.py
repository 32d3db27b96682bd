"""View of a sample as the model sees it: tiles, video frames and the text of each segment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmcomponents.batch import IGNORE, Exact
from mmcomponents.data.chat.kinds import Pair, Sample, kind_name
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.chat.special_tokens import START, codec
from mmcomponents.data.errors import SampleError
from mmcomponents.data.inspection.index_survey import NO_SOURCE
from mmcomponents.data.inspection.token_text import Piece, cut_text
from mmcomponents.data.loading.dataset import PackDataset
from mmcomponents.data.media.images import NORMALIZATIONS, Normalization, TiledImage
from mmcomponents.data.media.tiling import tile_grid
from mmcomponents.data.packing.sizes import draw_key

_OWN_COLUMNS = 4
"""Maximum number of columns of the tiles of an image that a record kind made."""


@dataclass(frozen=True)
class Picture:
    """An image, or a frame of a video.

    Attributes:
        name: Such as "image 2", "frame 3" or "image of the kind sketch".
        detail: Size of the image, position of the frame in its clip, or how an image that the kind made is shown.
        columns: Number of columns of the grid of tiles.
        tiles: Tiles in row-major order, without the thumbnail; none for an image of ids.
        thumbnail: The thumbnail, if the image has several tiles.
        visual_tokens: Number of visual tokens, such as "256 × 5".
        delta: Position increment of V2PE, such as "delta 1/4".
        video: Number of the video, from 1; 0 for an image.
        num_tiles: Number of tiles, also of an image of ids.
    """

    name: str
    detail: str
    columns: int
    tiles: list[Image.Image]
    thumbnail: Image.Image | None
    visual_tokens: str
    delta: str
    video: int = 0
    num_tiles: int = 1


@dataclass
class ShownSample:
    """A sample to show.

    Attributes:
        name: Shard and key.
        source: Name of the source.
        kind: Name of its record kind: chat, document, pair, or that of another package.
        tokens: Number of tokens of all segments.
        tiles: Number of tiles of all images and frames, with thumbnails.
        targets: Number of supervised tokens.
        pictures: Images and frames in the order of the text.
        text: The segment; of a pair, the part that both answers share.
        answers: The chosen and the rejected answer of a pair.
        fields: Fields of the segments with the shapes of their tensors, such as "actions: values [4, 2], mask [4]".
        problem: Why the sample could not be rendered; the other fields are then empty.
    """

    name: str
    source: str
    kind: str = ""
    tokens: int = 0
    tiles: int = 0
    targets: int = 0
    pictures: list[Picture] = field(default_factory=list)
    text: list[Piece] = field(default_factory=list)
    answers: list[list[Piece]] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    problem: str = ""


_Label = tuple[Literal["image", "frame", "own"], int, int]
"""Label of an image: ("image", number, 0), ("frame", number of the video, number of the frame), or ("own", 0, 0) for an
image that a record kind made itself."""


def show_sample(packs: PackDataset, sample: int, epoch: int = 0, copy: int = 0) -> ShownSample:
    """Renders a sample as training does, for display.

    Args:
        packs: The data.
        sample: Number of the sample.
        epoch: Number of the epoch.
        copy: Number of earlier occurrences of the sample in the epoch.

    Raises:
        SampleError: The sample cannot be used.
    """
    kind, read = packs.read(sample, epoch, copy)
    segments = packs.rendered(kind, read)
    first, tokenizer = segments[0], packs.renderer.tokenizer
    images = list({id(image): image for segment in segments for image in segment.images}.values())
    numbers = {id(image): number for number, image in enumerate(images)}
    shown = ShownSample(
        name=packs.index.name(sample),
        source=packs.index.sources[first.source] or NO_SOURCE,
        kind=kind_name(kind),
        tokens=sum(len(segment.input_ids) for segment in segments),
        tiles=sum(image.num_tiles for image in images),
        targets=sum(label != IGNORE for segment in segments for label in segment.labels),
        pictures=_pictures(packs, segments, images, read, kind_name(kind)),
        fields=[line for number, segment in enumerate(segments, 1) for line in _fields(segment, number, len(segments))],
    )
    if isinstance(kind, Pair):
        shared = _answer_begins(first, codec(tokenizer).ids[START])
        shown.text = cut_text(first, tokenizer, 0, shared)
        shown.answers = [cut_text(segment, tokenizer, shared) for segment in segments]
    else:
        for segment in segments:
            own = [numbers[id(image)] for image in segment.images]
            shown.text += cut_text(segment, tokenizer, images=own)
    return shown


def show_samples(
    packs: PackDataset, samples: Sequence[int], epoch: int = 0, progress: Callable[[str, int, int], None] | None = None
) -> list[ShownSample]:
    """Renders samples for display; one that cannot be used has only its problem.

    Args:
        packs: The data.
        samples: Numbers of the samples.
        epoch: Number of the epoch.
        progress: Called with (stage, done, total).
    """
    shown = []
    for done, sample in enumerate(samples):
        try:
            shown.append(show_sample(packs, sample, epoch))
        except SampleError as error:
            source = packs.index.sources[int(packs.index.take(np.array([sample])).source[0])]
            shown.append(ShownSample(packs.index.name(sample), source or NO_SOURCE, problem=str(error)))
        if progress is not None:
            progress("rendering samples", done + 1, len(samples))
    return shown


def _answer_begins(segment: RenderedSample, start: int) -> int:
    """Returns the position at which the last turn begins."""
    return len(segment.input_ids) - 1 - segment.input_ids[::-1].index(start)


def _fields(segment: RenderedSample, number: int, segments: int) -> Iterator[str]:
    """Yields a line for each field of a segment."""
    for name, extra in segment.extras.items():
        held = [f"{key} {_shape(value)}" for key, value in vars(extra).items() if value is not None]
        yield f"{name}{f' of segment {number}' if segments > 1 else ''}: {', '.join(held) or 'empty'}"


def _shape(value: object) -> str:
    tensors = value.tensors if isinstance(value, Exact) else [value]
    return " and ".join(str([*t.shape]) if isinstance(t, Tensor) else type(t).__name__ for t in tensors)


def _pictures(
    packs: PackDataset, segments: Sequence[RenderedSample], images: Sequence[TiledImage], read: Sample, kind: str
) -> list[Picture]:
    segment = segments[0]
    placed = {id(found.images[span.image]) for found in segments for span in found.spans if span.image >= 0}
    columns = packs.index.take(np.array([segment.sample]))
    tiling = packs.sizes.tilings.get(segment.source, packs.renderer.tiling).for_images(len(columns.image_width))
    chosen: list[list[int]] = []
    for video, (total, rate) in enumerate(zip(columns.video_frames.tolist(), columns.video_fps.tolist(), strict=True)):
        seed, epoch, number, copy = read.key
        key = draw_key(seed, epoch, number, copy, video)
        chosen.append(packs.sizes.frames.sampling(key).indices(total, rate))
    labels: dict[int, _Label] = {id(image): ("image", number, 0) for number, image in enumerate(read.images)}
    labels |= {
        id(image): ("frame", video, frame) for video, film in enumerate(read.videos) for frame, image in enumerate(film)
    }
    pictures = []
    for image in images:
        origin, number, frame = labels.get(id(image), ("own", 0, 0))
        if origin == "own":
            pictures.append(_own_picture(packs.renderer.tokens_per_tile, image, kind, id(image) in placed))
            continue
        if origin == "frame":
            place = chosen[number][frame]
            detail = f"frame {place} of the clip, at {place / float(columns.video_fps[number]):.2f} s"
            pictures.append(_picture(packs, image, f"frame {frame + 1}", detail, (1, 1), number + 1))
            continue
        width, height = int(columns.image_width[number]), int(columns.image_height[number])
        grid = tile_grid(width, height, tiling.min_tiles, tiling.max_tiles, tiling.tile_size)
        pictures.append(_picture(packs, image, f"image {number + 1}", f"{width} × {height} pixels", grid))
    return pictures


def _picture(
    packs: PackDataset, image: TiledImage, name: str, detail: str, grid: tuple[int, int], video: int = 0
) -> Picture:
    assert image.pixels is not None
    tiles = [_visible(tile, packs.renderer.normalization) for tile in image.pixels]
    cells = grid[0] * grid[1]
    return Picture(
        name=name,
        detail=detail,
        columns=grid[0],
        tiles=tiles[:cells],
        thumbnail=tiles[cells] if len(tiles) > cells else None,
        visual_tokens=_tokens(image, packs.renderer.tokens_per_tile),
        delta=_delta(image),
        video=video,
        num_tiles=image.num_tiles,
    )


def _own_picture(tokens_per_tile: int, image: TiledImage, kind: str, is_placed: bool) -> Picture:
    """Returns the view of an image that a record kind made itself, whose pixels may be normalised in any way."""
    if image.pixels is not None:
        height, width = image.pixels.shape[-2:]
        detail = f"{width} × {height} pixels, shown between their smallest and largest value"
        tiles = [_stretched(tile) for tile in image.pixels]
    else:
        assert image.vq_ids is not None
        height, width = image.vq_ids.shape[-2:]
        detail, tiles = f"{width} × {height} ids in each tile", []
    return Picture(
        name=f"image of the kind {kind}",
        detail=detail,
        columns=max(1, min(image.num_tiles, _OWN_COLUMNS)),
        tiles=tiles,
        thumbnail=None,
        visual_tokens=_tokens(image, tokens_per_tile) if is_placed else "no",
        delta=_delta(image),
        num_tiles=image.num_tiles,
    )


def _delta(image: TiledImage) -> str:
    k = image.delta_log2
    return "the model's own delta" if k is None else f"delta 1/{2**k}" if k else "delta 1"


def _tokens(image: TiledImage, tokens_per_tile: int) -> str:
    return f"{tokens_per_tile} × {image.num_tiles}" if image.visual_tokens is None else str(image.visual_tokens)


def _visible(pixels: Tensor, normalization: Normalization) -> Image.Image:
    """Converts normalised pixels `[3, H, W]` back to an image."""
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALIZATIONS[normalization])
    values = ((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def _stretched(pixels: Tensor) -> Image.Image:
    """Converts pixels `[C, H, W]` of any range to an image from black to white; its first three channels if C >= 3."""
    found = (pixels[:3] if pixels.shape[0] >= 3 else pixels[:1].expand(3, -1, -1)).float().nan_to_num()
    low, high = found.aminmax()
    values = ((found - low) * (255 / max(float(high - low), 1e-12))).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())

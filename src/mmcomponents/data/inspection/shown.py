"""A sample as the model sees it: its tiles in their grid, the frames of its videos, the text of each segment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmcomponents.batch import IGNORE
from mmcomponents.data.chat import RenderedChat
from mmcomponents.data.collate import RenderedSample, TiledImage
from mmcomponents.data.control_text import START, codec
from mmcomponents.data.dataset import PackDataset
from mmcomponents.data.errors import SampleError
from mmcomponents.data.images import NORMALIZATIONS, Normalization
from mmcomponents.data.inspection.survey import NO_SOURCE
from mmcomponents.data.inspection.text import Piece, cut_text
from mmcomponents.data.records import record_kind
from mmcomponents.data.rendering import render_record
from mmcomponents.data.sizes import draw_key
from mmcomponents.data.tiling import tile_grid


@dataclass(frozen=True)
class Picture:
    """An image, or a frame of a video.

    Attributes:
        name: As "image 2" or "frame 3".
        detail: Size of the image as it is stored, or place of the frame in its clip.
        columns: Of the grid of tiles.
        tiles: Row by row, without the thumbnail.
        thumbnail: The whole image in one tile, where there are several.
        rows: Visual rows, as "256 × 5".
        delta: Step of V2PE's positions, as "delta 1/4".
        video: Number of the video, from 1 on; 0: an image.
    """

    name: str
    detail: str
    columns: int
    tiles: list[Image.Image]
    thumbnail: Image.Image | None
    rows: str
    delta: str
    video: int = 0


@dataclass
class ShownSample:
    """What is shown of a sample.

    Attributes:
        name: Shard and key.
        source: Its name.
        kind: chat, document or pair.
        tokens: Of all its segments.
        tiles: Of all images and frames, thumbnails counted.
        targets: Tokens that are supervised.
        pictures: In the order of the text.
        text: The segment; of a pair, what both answers share.
        answers: Of a pair, the chosen and the rejected one.
        problem: Why it could not be rendered; then the rest is empty.
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
    problem: str = ""


_Label = tuple[Literal["image", "frame"], int, int]
"""What an entry of a sample's order is: an image and its number, or a frame with the numbers of video and frame."""


def show_sample(packs: PackDataset, sample: int, epoch: int = 0, copy: int = 0) -> ShownSample:
    """Renders a sample as training does and makes it visible.

    Args:
        packs: The data.
        sample: Its number.
        epoch: Number of the epoch.
        copy: How many times the sample came up in the epoch before.

    Raises:
        SampleError: It cannot be used.
    """
    segments = packs.render(sample, epoch, copy)
    first, tokenizer = segments[0], packs.renderer.tokenizer
    record = packs.index.read(sample).record
    shown = ShownSample(
        name=packs.index.name(sample),
        source=packs.index.sources[first.source] or NO_SOURCE,
        kind=record_kind(record),
        tokens=sum(len(segment.chat.input_ids) for segment in segments),
        tiles=sum(len(image.pixels) for image in first.images),
        targets=sum(label != IGNORE for segment in segments for label in segment.chat.labels),
        pictures=_pictures(packs, first, record, epoch, copy),
    )
    chats = [segment.chat for segment in segments]
    if len(chats) == 1:
        shown.text = cut_text(chats[0], tokenizer)
    else:
        shared = _answer_begins(chats[0], codec(tokenizer).ids[START])
        shown.text = cut_text(chats[0], tokenizer, 0, shared)
        shown.answers = [cut_text(chat, tokenizer, shared) for chat in chats]
    return shown


def show_samples(
    packs: PackDataset, samples: Sequence[int], epoch: int = 0, progress: Callable[[str, int, int], None] | None = None
) -> list[ShownSample]:
    """Renders samples; one that cannot be used has its problem instead.

    Args:
        packs: The data.
        samples: Their numbers.
        epoch: Number of the epoch.
        progress: Is told what is being done, how much of it, of how much.
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


def _answer_begins(chat: RenderedChat, start: int) -> int:
    """Where the last turn begins."""
    return len(chat.input_ids) - 1 - chat.input_ids[::-1].index(start)


def _pictures(
    packs: PackDataset, segment: RenderedSample, record: dict[str, object], epoch: int, copy: int
) -> list[Picture]:
    rows = packs.index.take(np.array([segment.sample]))
    tiling = packs.sizes.tilings.get(segment.source, packs.renderer.tiling).for_images(len(rows.image_width))
    chosen: list[list[int]] = []
    for video, (total, rate) in enumerate(zip(rows.video_frames.tolist(), rows.video_fps.tolist(), strict=True)):
        key = draw_key(packs.sizes.seed, epoch, segment.sample, copy, video)
        chosen.append(packs.sizes.frames.sampling(key).indices(total, rate))
    pictures = []
    for label, image in zip(_order(packs, record, len(rows.image_width), chosen), segment.images, strict=True):
        kind, number, frame = label
        if kind == "frame":
            place = chosen[number][frame]
            detail = f"frame {place} of the clip, at {place / float(rows.video_fps[number]):.2f} s"
            pictures.append(_picture(packs, image, f"frame {frame + 1}", detail, (1, 1), number + 1))
            continue
        width, height = int(rows.image_width[number]), int(rows.image_height[number])
        grid = tile_grid(width, height, tiling.min_tiles, tiling.max_tiles, tiling.tile_size)
        pictures.append(_picture(packs, image, f"image {number + 1}", f"{width} × {height} pixels", grid))
    return pictures


def _order(packs: PackDataset, record: dict[str, object], images: int, frames: Sequence[Sequence[int]]) -> list[_Label]:
    """Which image or frame each entry of a sample's images is: the record is rendered once more with names for them."""
    pictures: list[_Label] = [("image", number, 0) for number in range(images)]
    films: list[list[_Label]] = [
        [("frame", video, frame) for frame in range(len(chosen))] for video, chosen in enumerate(frames)
    ]
    tokenizer, template = packs.renderer.tokenizer, packs.renderer.frame_template
    return render_record(record, pictures, films, lambda some: [1] * len(some), tokenizer, frame_template=template)[1]


def _picture(
    packs: PackDataset, image: TiledImage, name: str, detail: str, grid: tuple[int, int], video: int = 0
) -> Picture:
    tiles = [_visible(tile, packs.renderer.normalization) for tile in image.pixels]
    cells = grid[0] * grid[1]
    k = image.delta_log2
    delta = "the position part's own delta" if k is None else f"delta 1/{2**k}" if k else "delta 1"
    return Picture(
        name=name,
        detail=detail,
        columns=grid[0],
        tiles=tiles[:cells],
        thumbnail=tiles[cells] if len(tiles) > cells else None,
        rows=f"{packs.renderer.tokens_per_tile} × {len(tiles)}",
        delta=delta,
        video=video,
    )


def _visible(pixels: Tensor, normalization: Normalization) -> Image.Image:
    """An image again, of normalised pixels `[3, H, W]`."""
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALIZATIONS[normalization])
    values = ((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())

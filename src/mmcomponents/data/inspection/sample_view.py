"""View of a sample as the model sees it: tiles, video frames and the text of each segment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmcomponents.batch import IGNORE
from mmcomponents.data.chat.record_kinds import record_kind
from mmcomponents.data.chat.rendering import render_record
from mmcomponents.data.chat.special_tokens import START, codec
from mmcomponents.data.chat.template import RenderedChat
from mmcomponents.data.errors import SampleError
from mmcomponents.data.inspection.index_survey import NO_SOURCE
from mmcomponents.data.inspection.token_text import Piece, cut_text
from mmcomponents.data.loading.collation import RenderedSample
from mmcomponents.data.loading.dataset import PackDataset
from mmcomponents.data.media.images import NORMALIZATIONS, Normalization, TiledImage
from mmcomponents.data.media.tiling import tile_grid
from mmcomponents.data.packing.sizes import draw_key


@dataclass(frozen=True)
class Picture:
    """An image, or a frame of a video.

    Attributes:
        name: Such as "image 2" or "frame 3".
        detail: Size of the stored image, or position of the frame in its clip.
        columns: Number of columns of the grid of tiles.
        tiles: Tiles in row-major order, without the thumbnail.
        thumbnail: The thumbnail, if the image has several tiles.
        visual_tokens: Number of visual tokens, such as "256 × 5".
        delta: Position increment of V2PE, such as "delta 1/4".
        video: Number of the video, from 1; 0 for an image.
    """

    name: str
    detail: str
    columns: int
    tiles: list[Image.Image]
    thumbnail: Image.Image | None
    visual_tokens: str
    delta: str
    video: int = 0


@dataclass
class ShownSample:
    """A sample to show.

    Attributes:
        name: Shard and key.
        source: Name of the source.
        kind: chat, document or pair.
        tokens: Number of tokens of all segments.
        tiles: Number of tiles of all images and frames, with thumbnails.
        targets: Number of supervised tokens.
        pictures: Images and frames in the order of the text.
        text: The segment; of a pair, the part that both answers share.
        answers: The chosen and the rejected answer of a pair.
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
    problem: str = ""


_Label = tuple[Literal["image", "frame"], int, int]
"""Label of an image or a frame: ("image", number, 0) or ("frame", number of the video, number of the frame)."""


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


def _answer_begins(chat: RenderedChat, start: int) -> int:
    """Returns the position at which the last turn begins."""
    return len(chat.input_ids) - 1 - chat.input_ids[::-1].index(start)


def _pictures(
    packs: PackDataset, segment: RenderedSample, record: dict[str, object], epoch: int, copy: int
) -> list[Picture]:
    columns = packs.index.take(np.array([segment.sample]))
    tiling = packs.sizes.tilings.get(segment.source, packs.renderer.tiling).for_images(len(columns.image_width))
    chosen: list[list[int]] = []
    for video, (total, rate) in enumerate(zip(columns.video_frames.tolist(), columns.video_fps.tolist(), strict=True)):
        key = draw_key(packs.sizes.seed, epoch, segment.sample, copy, video)
        chosen.append(packs.sizes.frames.sampling(key).indices(total, rate))
    pictures = []
    for label, image in zip(_order(packs, record, len(columns.image_width), chosen), segment.images, strict=True):
        kind, number, frame = label
        if kind == "frame":
            place = chosen[number][frame]
            detail = f"frame {place} of the clip, at {place / float(columns.video_fps[number]):.2f} s"
            pictures.append(_picture(packs, image, f"frame {frame + 1}", detail, (1, 1), number + 1))
            continue
        width, height = int(columns.image_width[number]), int(columns.image_height[number])
        grid = tile_grid(width, height, tiling.min_tiles, tiling.max_tiles, tiling.tile_size)
        pictures.append(_picture(packs, image, f"image {number + 1}", f"{width} × {height} pixels", grid))
    return pictures


def _order(packs: PackDataset, record: dict[str, object], images: int, frames: Sequence[Sequence[int]]) -> list[_Label]:
    """Labels each of a sample's images by rendering the record again, with labels in place of images and frames."""
    image_labels: list[_Label] = [("image", number, 0) for number in range(images)]
    frame_labels: list[list[_Label]] = [
        [("frame", video, frame) for frame in range(len(chosen))] for video, chosen in enumerate(frames)
    ]
    _, order = render_record(
        record,
        image_labels,
        frame_labels,
        lambda some: [1] * len(some),
        packs.renderer.tokenizer,
        frame_template=packs.renderer.frame_template,
    )
    return order


def _picture(
    packs: PackDataset, image: TiledImage, name: str, detail: str, grid: tuple[int, int], video: int = 0
) -> Picture:
    tiles = [_visible(tile, packs.renderer.normalization) for tile in image.pixels]
    cells = grid[0] * grid[1]
    k = image.delta_log2
    delta = "the model's own delta" if k is None else f"delta 1/{2**k}" if k else "delta 1"
    return Picture(
        name=name,
        detail=detail,
        columns=grid[0],
        tiles=tiles[:cells],
        thumbnail=tiles[cells] if len(tiles) > cells else None,
        visual_tokens=f"{packs.renderer.tokens_per_tile} × {len(tiles)}",
        delta=delta,
        video=video,
    )


def _visible(pixels: Tensor, normalization: Normalization) -> Image.Image:
    """Converts normalised pixels `[3, H, W]` back to an image."""
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALIZATIONS[normalization])
    values = ((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())

"""Data pipeline from annotations to the packs of each rank.

    annotations ── convert ──► shards + index ── packing ──► pack plan ── loading ──► PackedBatch
                               (format, storage)     │                       │
                                    media, chat ── measure ──────────── render

`PackedDataModule` connects the packages: `format` (records, shards, index), `storage`, `convert`, `media` (images,
video, tiling), `chat` (conversations to token ids), `packing`, `loading` and `inspection`.
"""

from typing import TYPE_CHECKING, Any

from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.template import render_chat
from mmcomponents.data.chat.tokenizer import load_tokenizer, train_tokenizer
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.format.shards import ShardWriter
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.media.images import load_image
from mmcomponents.data.media.tiling import Tiling, tile_grid, tile_image
from mmcomponents.data.media.video import read_video
from mmcomponents.data.packing.mixture import TokenShare
from mmcomponents.data.packing.source_options import SourceOptions
from mmcomponents.moved import moved_attribute

if TYPE_CHECKING:
    from mmcomponents.data.base import DataModule
    from mmcomponents.data.datamodule import PackedDataModule

__all__ = [
    "DataError",
    "DataModule",
    "Index",
    "PackedDataModule",
    "RenderedSample",
    "SampleError",
    "SampleRenderer",
    "ShardWriter",
    "SourceOptions",
    "Tiling",
    "TokenShare",
    "build_index",
    "collate",
    "load_image",
    "load_tokenizer",
    "read_video",
    "render_chat",
    "tile_grid",
    "tile_image",
    "train_tokenizer",
]


def __getattr__(name: str) -> Any:
    # Imported on first access: processes that convert or index data need no lightning, whose import takes seconds.
    if name == "DataModule":
        from mmcomponents.data.base import DataModule

        return DataModule
    if name == "PackedDataModule":
        from mmcomponents.data.datamodule import PackedDataModule

        return PackedDataModule
    return moved_attribute(__name__, name)


def __dir__() -> list[str]:
    return __all__

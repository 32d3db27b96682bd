"""Data: shards and their index, tiling, chat rendering, packs planned from the index, and the datamodule."""

from mmcomponents.data.augment import JpegRecompression
from mmcomponents.data.chat import (
    ConversationError,
    RenderedChat,
    TemplateError,
    check_template,
    render_chat,
    render_prompt,
)
from mmcomponents.data.collate import RenderedSample, TiledImage, collate, token_grid
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.dataset import PackDataset
from mmcomponents.data.documents import render_document
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.frames import (
    DrawnFrames,
    FrameDraw,
    FrameSampling,
    FramesPerSecond,
    MiddleFrames,
    OffsetFrames,
    RandomFrames,
    SameFrames,
    draw_frame_count,
)
from mmcomponents.data.grounding import (
    Grounding,
    ParsedGroundings,
    draw_groundings,
    format_grounding,
    parse_groundings,
)
from mmcomponents.data.handwriting import make_handwriting
from mmcomponents.data.images import (
    NORMALIZATIONS,
    ImageError,
    ImageSource,
    decode_image,
    image_size,
    load_image,
    pixels,
)
from mmcomponents.data.index import Index, StoredSample
from mmcomponents.data.indexing import IndexReport, build_index, index_shards
from mmcomponents.data.lookahead import Lookahead
from mmcomponents.data.mixture import Mixture, TokenShare
from mmcomponents.data.opening import PackSettings, open_packs
from mmcomponents.data.placeholders import frame_prompt, place_image, place_media, place_video
from mmcomponents.data.plan import Budgets, Pack, PackPlan
from mmcomponents.data.prompts import PromptBatch, PromptDataset, prompt_batch
from mmcomponents.data.samples import SampleRenderer
from mmcomponents.data.shards import ShardWriter, find_shards, open_shard
from mmcomponents.data.sources import SourceOptions
from mmcomponents.data.tiling import Tiling, count_tiles, tile_grid, tile_image
from mmcomponents.data.tokenizer import fingerprint, load_tokenizer, train_tokenizer
from mmcomponents.data.video import VideoError, read_video, video_length

__all__ = [
    "Budgets",
    "ConversationError",
    "DataError",
    "DrawnFrames",
    "FrameDraw",
    "FrameSampling",
    "FramesPerSecond",
    "Grounding",
    "ImageError",
    "ImageSource",
    "Index",
    "IndexReport",
    "JpegRecompression",
    "Lookahead",
    "MiddleFrames",
    "Mixture",
    "NORMALIZATIONS",
    "OffsetFrames",
    "Pack",
    "PackDataset",
    "PackPlan",
    "PackSettings",
    "PackedDataModule",
    "ParsedGroundings",
    "PromptBatch",
    "PromptDataset",
    "RandomFrames",
    "RenderedChat",
    "RenderedSample",
    "SameFrames",
    "SampleError",
    "SampleRenderer",
    "ShardWriter",
    "SourceOptions",
    "StoredSample",
    "TemplateError",
    "TiledImage",
    "Tiling",
    "TokenShare",
    "VideoError",
    "build_index",
    "check_template",
    "collate",
    "count_tiles",
    "decode_image",
    "draw_frame_count",
    "draw_groundings",
    "find_shards",
    "fingerprint",
    "format_grounding",
    "frame_prompt",
    "image_size",
    "index_shards",
    "load_image",
    "load_tokenizer",
    "make_handwriting",
    "open_packs",
    "open_shard",
    "parse_groundings",
    "pixels",
    "place_image",
    "place_media",
    "place_video",
    "prompt_batch",
    "read_video",
    "render_chat",
    "render_document",
    "render_prompt",
    "tile_grid",
    "tile_image",
    "token_grid",
    "train_tokenizer",
    "video_length",
]

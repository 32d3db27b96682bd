"""Data: shards and their index, tiling, chat rendering, packs planned from the index, and the datamodule."""

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
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.frames import (
    FrameSampling,
    FramesPerSecond,
    MiddleFrames,
    OffsetFrames,
    RandomFrames,
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
from mmcomponents.data.index import Index
from mmcomponents.data.indexing import build_index, index_shards
from mmcomponents.data.lookahead import Lookahead
from mmcomponents.data.placeholders import frame_prompt, place_image, place_media, place_video
from mmcomponents.data.plan import Pack, PackPlan
from mmcomponents.data.prompts import PromptBatch, PromptDataset, prompt_batch
from mmcomponents.data.samples import SampleRenderer
from mmcomponents.data.shards import ShardWriter, find_shards
from mmcomponents.data.tiling import Tiling, count_tiles, tile_grid, tile_image
from mmcomponents.data.tokenizer import fingerprint, load_tokenizer, train_tokenizer
from mmcomponents.data.video import VideoError, read_video

__all__ = [
    "NORMALIZATIONS",
    "ConversationError",
    "DataError",
    "FrameSampling",
    "FramesPerSecond",
    "Grounding",
    "ImageError",
    "ImageSource",
    "Index",
    "Lookahead",
    "MiddleFrames",
    "OffsetFrames",
    "Pack",
    "PackDataset",
    "PackPlan",
    "PackedDataModule",
    "ParsedGroundings",
    "PromptBatch",
    "PromptDataset",
    "RandomFrames",
    "RenderedChat",
    "RenderedSample",
    "SampleError",
    "SampleRenderer",
    "ShardWriter",
    "TemplateError",
    "TiledImage",
    "Tiling",
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
    "parse_groundings",
    "pixels",
    "place_image",
    "place_media",
    "place_video",
    "prompt_batch",
    "read_video",
    "render_chat",
    "render_prompt",
    "tile_grid",
    "tile_image",
    "token_grid",
    "train_tokenizer",
]

"""Data: shards and their index, tiling, chat rendering, packs planned from the index, and the datamodule."""

from mmcomponents.data.chat import (
    ConversationError,
    RenderedChat,
    TemplateError,
    check_template,
    place_image,
    render_chat,
    render_prompt,
)
from mmcomponents.data.collate import RenderedSample, TiledImage, collate, token_grid
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.dataset import PackDataset
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.handwriting import make_handwriting
from mmcomponents.data.images import NORMALIZATIONS, ImageError, decode_image, image_size, pixels
from mmcomponents.data.index import Index
from mmcomponents.data.indexing import build_index, index_shards
from mmcomponents.data.lookahead import Lookahead
from mmcomponents.data.plan import Pack, PackPlan
from mmcomponents.data.prompts import PromptBatch, PromptDataset, prompt_batch
from mmcomponents.data.samples import SampleRenderer
from mmcomponents.data.shards import ShardWriter, find_shards
from mmcomponents.data.tiling import Tiling, count_tiles, tile_grid, tile_image
from mmcomponents.data.tokenizer import fingerprint, load_tokenizer, train_tokenizer

__all__ = [
    "NORMALIZATIONS",
    "ConversationError",
    "DataError",
    "ImageError",
    "Index",
    "Lookahead",
    "Pack",
    "PackDataset",
    "PackPlan",
    "PackedDataModule",
    "PromptBatch",
    "PromptDataset",
    "RenderedChat",
    "RenderedSample",
    "SampleError",
    "SampleRenderer",
    "ShardWriter",
    "TemplateError",
    "TiledImage",
    "Tiling",
    "build_index",
    "check_template",
    "collate",
    "count_tiles",
    "decode_image",
    "find_shards",
    "fingerprint",
    "image_size",
    "index_shards",
    "load_tokenizer",
    "make_handwriting",
    "pixels",
    "place_image",
    "prompt_batch",
    "render_chat",
    "render_prompt",
    "tile_grid",
    "tile_image",
    "token_grid",
    "train_tokenizer",
]

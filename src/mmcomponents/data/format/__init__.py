"""Dataset format on disk: WebDataset tar shards and one index per shard.

    record (JSON), image and video files ── ShardWriter ──► shard.tar ── build_index ──► shard.index.safetensors
    indices ── Index ──► columns of all samples, samples by number

Records are parsed here; their kinds are in `mmcomponents.data.chat.kinds`.
"""

from mmcomponents.data.format.indexing import IndexReport, build_index, index_shards
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.format.shards import ShardWriter, find_shards, open_shard
from mmcomponents.data.format.stored_sample import StoredSample

__all__ = [
    "Index",
    "IndexReport",
    "ShardWriter",
    "StoredSample",
    "build_index",
    "find_shards",
    "index_shards",
    "open_shard",
]

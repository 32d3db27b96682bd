"""Former location of `mmcomponents.data.format.sample_index.Index`, kept for existing imports."""

from mmcomponents.data.format.sample_index import Index, StoredSample

__all__ = [
    "Index",
    "StoredSample",
]

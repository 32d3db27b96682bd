"""Former location of `mmcomponents.data.format.sample_index.Index`, kept for existing imports."""

from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.format.stored_sample import StoredSample

__all__ = [
    "Index",
    "StoredSample",
]

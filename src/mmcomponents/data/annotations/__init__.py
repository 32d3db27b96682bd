"""Annotations of other programs as shards: InternVL's and MMPR's files, chat messages and plain texts."""

from mmcomponents.data.annotations.pack import pack_annotations
from mmcomponents.data.annotations.refused import CODES
from mmcomponents.data.annotations.report import PackReport

__all__ = ["CODES", "PackReport", "pack_annotations"]

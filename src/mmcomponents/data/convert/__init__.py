"""Conversion of annotations to shards: InternVL and MMPR files, chat messages, plain documents.

    *.json, *.jsonl, *.txt ── input_files, chunks ──► lines ── annotation_formats ──► Draft ── shard_job ──► shard.tar
                                                                     └─ skipped ──► refused.jsonl

`convert_annotations` runs it on several processes and resumes an interrupted call.
"""

from mmcomponents.data.convert.conversion_report import ConversionReport
from mmcomponents.data.convert.convert import convert_annotations
from mmcomponents.data.convert.refused import CODES

__all__ = ["CODES", "ConversionReport", "convert_annotations"]

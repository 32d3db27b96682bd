"""The data set of the quickstart: questions about real handwritten digits.

    scans (scikit-learn) ── scenes ── digit_questions ──► shards, index, tokenizer

`mmcomponents data handwriting` writes it.
"""

from mmcomponents.demos.handwriting.builder import make_handwriting

__all__ = [
    "make_handwriting",
]

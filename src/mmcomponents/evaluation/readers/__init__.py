"""Readers of question files, one for each format.

    *.tsv, *.jsonl, *.tar ── reader ──► questions with references; media are read lazily

`mmcomponents evaluate` and `mmcomponents data preferences | steps` use the same readers.
"""

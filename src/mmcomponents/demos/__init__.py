"""Data sets that quickstart, examples and tests share.

    make_handwriting ──► shards, index, tokenizer

Each data set is a package of its own.
"""

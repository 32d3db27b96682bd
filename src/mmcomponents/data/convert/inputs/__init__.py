"""Inputs of `data convert`: which files there are, and where their annotations begin.

paths ── input_files, meta_file ──► Source ── chunks ──► Chunk ── json_list, table_rows ──► annotations
"""

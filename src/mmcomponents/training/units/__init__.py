"""Shard units of parts: activation checkpointing.

model, options of slots ── prepare_units ──► units that compute again what they do not keep
"""

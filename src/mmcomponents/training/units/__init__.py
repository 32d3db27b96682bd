"""Shard units of parts: activation checkpointing and compilation.

    model, options of slots ── prepare_units ──► units that compute again what they do not keep, and are compiled

Parts declare their units (`Component.shard_units`).
"""

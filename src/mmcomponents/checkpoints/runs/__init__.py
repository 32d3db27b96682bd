"""Checkpoints that a run writes while it trains: a file, or a folder with one file of shards for each rank.

    save ──► NAME.part ── checksums ── replace ──► NAME ──► verify, shard metadata without code ──► resume, generate
                              recover ◄── leftovers of a killed run

One run at a time writes into a folder (`run_lock`).
"""

from mmcomponents.checkpoints.runs.checkpoint_writer import CheckpointWriter
from mmcomponents.checkpoints.runs.frozen_weights import FrozenWeights
from mmcomponents.checkpoints.runs.integrity import check_contents, checksums, verify, write_checksums
from mmcomponents.checkpoints.runs.replacement import part_of, recover, remove, replace, write_error
from mmcomponents.checkpoints.runs.run_lock import run_lock
from mmcomponents.checkpoints.runs.shard_metadata import PlainPlanner, ShardReader, check_shards, read_metadata

__all__ = [
    "FrozenWeights",
    "PlainPlanner",
    "ShardReader",
    "CheckpointWriter",
    "check_contents",
    "check_shards",
    "checksums",
    "part_of",
    "read_metadata",
    "recover",
    "remove",
    "replace",
    "run_lock",
    "verify",
    "write_checksums",
    "write_error",
]

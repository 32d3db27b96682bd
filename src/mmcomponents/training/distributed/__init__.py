"""Training over several processes: sharding of the model, and an end for all when one process dies.

model on meta ── FSDP2Strategy.shard ──► shards on each rank ── CheckpointWriter ──► one folder
                      RankMonitor: rank 0 ◄── connections ──► the other ranks
"""

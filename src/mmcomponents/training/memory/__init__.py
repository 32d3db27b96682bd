"""Memory and FLOPs of a training step, without weights.

    model on meta ── trace_step ──► activations, FLOPs ── make_plan ──► memory of a device ── verdict ──► what fits it

The command `plan` shows them.
"""

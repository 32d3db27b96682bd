"""Building blocks of parts.

    activations [T, d], Layout, tables ── attention/, Linear, MLP, SwiGLU, Rotation, DropPath, KVCache ──► [T, d]
    hidden [T, d], weight [vocab, d], targets ── linear_nll ──► negative log-likelihoods

Blocks import only `mmcomponents.batch`.
"""

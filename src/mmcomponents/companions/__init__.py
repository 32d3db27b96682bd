"""Files that travel with a model besides its weights.

data set ──► action statistics ──┐
texts ─────► text features ──────┴── a part's `files` ──► exported folder
"""

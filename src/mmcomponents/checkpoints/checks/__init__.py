"""Checks of configurations and weights as they are read.

config.json, names and bytes of weights ── checks ──► the same, or one line of error
"""

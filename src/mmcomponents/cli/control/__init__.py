"""Verbs of policies: data of control tasks, and roll-outs."""

"""Verbs for the data of policies.

arguments ── data_tabletop ──► shards, action statistics, features of goals
"""

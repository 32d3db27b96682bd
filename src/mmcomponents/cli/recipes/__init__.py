"""Recipes of the command.

    --config names, flags ── load, apply ──► Recipe ── resolved ──► plain tree ── check ──► parser

Unknown keys and classes are refused with the nearest name.
"""

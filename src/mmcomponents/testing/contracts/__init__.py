"""The contract tests, one file each, and those of samplers and selectors.

    Case (part, model around it, packs) ── contract test ──► Findings

Numbers are those of `docs/testing.md`.
"""

"""Terminal input and output.

    argv ── Parser ──► options          results ──► tables, progress bars, startup and closing lines

Only the command prints.
"""

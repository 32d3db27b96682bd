"""The command `mmcomponents`: one module for each verb.

    words ── main ──► verb ── recipes/ (merge, flags, checks) ── models/ (load, write) ── terminal/ (output)

A verb's module has `main(verb, argv) -> exit code`.
"""

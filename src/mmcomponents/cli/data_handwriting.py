"""`mmcomponents data handwriting`: writes the data set of the quickstart."""

from __future__ import annotations

from mmcomponents.cli.data import KINDS
from mmcomponents.cli.runs.demo_data import write


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    from mmcomponents.demos.handwriting import builder

    return write(verb, argv, "handwriting", KINDS["handwriting"][1], builder.make_handwriting)

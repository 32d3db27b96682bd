"""`mmcomponents data pictures`: writes the data set of `synergen/tiny`."""

from __future__ import annotations

from mmcomponents.cli.data import KINDS
from mmcomponents.cli.runs.demo_data import write


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    from mmcomponents.demos.handwriting import picture_builder

    return write(verb, argv, "pictures", KINDS["pictures"][1], picture_builder.make_pictures)

"""`mmcomponents data shapes`: writes the data set of `got/tiny`."""

from __future__ import annotations

from mmcomponents.cli.data import KINDS
from mmcomponents.cli.runs.demo_data import write


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    from mmcomponents.demos.shapes import shape_shards

    return write(verb, argv, "shapes", KINDS["shapes"][1], shape_shards.make_shapes)

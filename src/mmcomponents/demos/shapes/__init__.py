"""Pictures of coloured shapes at places that words name, with the reasoning before them.

make_shapes ──► shards of requests, reasoning texts and pictures, their indices, a tokenizer
Scene ── draw ──► picture;  picture, colours ── located ──► box of each thing
"""

from mmcomponents.demos.shapes.shape_scenes import (
    COLOURS,
    PLACES,
    SHAPES,
    Scene,
    Thing,
    draw_scene,
    located,
    make_scene,
)
from mmcomponents.demos.shapes.shape_shards import make_shapes

__all__ = [
    "COLOURS",
    "PLACES",
    "SHAPES",
    "Scene",
    "Thing",
    "draw_scene",
    "located",
    "make_scene",
    "make_shapes",
]

"""Pictures of coloured shapes at places that words name, with the reasoning before them.

make_shapes ──► shards of requests, reasoning texts and pictures, their indices, a tokenizer
Scene ── draw ──► picture
"""

from mmcomponents.demos.shapes.shape_scenes import (
    COLOURS,
    PLACES,
    SHAPES,
    Scene,
    Thing,
    draw_scene,
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
    "make_scene",
    "make_shapes",
]

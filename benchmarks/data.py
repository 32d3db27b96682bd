"""From image files to normalised tiles, beside transformers' processor and beside Pillow alone, on one core, in one run.

    python benchmarks/data.py [--rounds 5] [--recipe recipes/quickstart.yaml] [--packs 100]

Twelve shapes from 400x300 to 2000x1500, each as a JPEG of quality 90 and as a PNG, are cut as InternVL3 cuts them: tiles
of 448, up to 12, and a thumbnail. Three ways are taken in turn, image by image, so that a busy machine slows all:

* ours: decode, tile, normalise to fp32 `[n, 3, 448, 448]`;
* transformers: the same decoding, then the Pillow processor that it has for InternVL;
* Pillow alone: decode, both resizes and the crops, and nothing else. No way through Pillow can take less.

The pixels of the first two must agree. Then the packs of a recipe are read: how long a training step would wait for the
next one, beside the time that the model needs for it (forward and backward). The last line holds the ratios.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from transformers import GotOcr2ImageProcessorPil

from mmcomponents.cli.recipe import load_recipe
from mmcomponents.compose import build
from mmcomponents.data import PackedDataModule
from mmcomponents.data.images import NORMALIZATIONS, decode_image, pixels
from mmcomponents.data.tiling import tile_grid, tile_image
from mmcomponents.objectives import NextToken

TILE, MOST = 448, 12
SHAPES = [(400, 300), (300, 400), (512, 512), (640, 427), (640, 480), (800, 600)]
SHAPES += [(1024, 768), (768, 1024), (1280, 720), (1600, 900), (1500, 2000), (2000, 1500)]
FORMATS = {"JPEG": {"quality": 90}, "PNG": {}}

T = TypeVar("T")


def pictures() -> dict[str, list[bytes]]:
    """Files of each format: two photographs in turn, cropped to each shape's proportions and resized."""
    photographs = cycle([Image.fromarray(photograph) for photograph in load_sample_images().images])
    files: dict[str, list[bytes]] = {name: [] for name in FORMATS}
    for (width, height), photograph in zip(SHAPES, photographs, strict=False):
        share = min(photograph.width / width, photograph.height / height)
        left, top = (photograph.width - share * width) / 2, (photograph.height - share * height) / 2
        box = (left, top, photograph.width - left, photograph.height - top)
        shaped = photograph.resize((width, height), Image.Resampling.LANCZOS, box=box)
        for name, options in FORMATS.items():
            buffer = io.BytesIO()
            shaped.save(buffer, name, **options)
            files[name].append(buffer.getvalue())
    return files


def ours(data: bytes) -> Tensor:
    """The library's way."""
    return pixels(tile_image(decode_image(data), 1, MOST, TILE), *NORMALIZATIONS["imagenet"])


def theirs(processor: GotOcr2ImageProcessorPil, data: bytes) -> Tensor:
    """The way of transformers' processor."""
    made: Tensor = processor(decode_image(data), return_tensors="pt")["pixel_values"]
    return made


def pillow(data: bytes) -> list[Image.Image]:
    """What Pillow has to do in any case."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    columns, rows = tile_grid(image.width, image.height, 1, MOST, TILE)
    canvas = image.resize((columns * TILE, rows * TILE))
    places = [(TILE * column, TILE * row) for row in range(rows) for column in range(columns)]
    tiles = [canvas.crop((left, top, left + TILE, top + TILE)) for left, top in places]
    return [*tiles, image.resize((TILE, TILE))] if len(tiles) > 1 else tiles


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Seconds of a call, and what it gave."""
    begin = time.perf_counter()
    value = call()
    return time.perf_counter() - begin, value


def compare_images(rounds: int) -> dict[str, float]:
    """Times the three ways on each format, prints tiles a second, and returns the ratios."""
    mean, std = NORMALIZATIONS["imagenet"]
    processor = GotOcr2ImageProcessorPil(
        size={"height": TILE, "width": TILE}, crop_to_patches=True, max_patches=MOST, image_mean=mean, image_std=std
    )
    ways: list[Callable[[bytes], Tensor | list[Image.Image]]] = [ours, partial(theirs, processor), pillow]
    files, tiles, difference = pictures(), 0, 0.0
    for data in [data for kind in files.values() for data in kind]:  # this also warms up
        made, wanted = ours(data), theirs(processor, data)
        if made.shape != wanted.shape or len(pillow(data)) != len(made):
            raise SystemExit(f"the tiles differ: {list(made.shape)} and {list(wanted.shape)}")
        difference = max(difference, float((made - wanted).abs().max()))
        tiles += len(made)
    if difference > 1e-5:
        raise SystemExit(f"the pixels differ by {difference:.2g}")
    print(f"{sum(map(len, files.values()))} images, {tiles} tiles, pixels agree within {difference:.1g};", end=" ")
    print(f"tiles a second on one core, medians of {rounds} rounds")
    print("                    ours  transformers  Pillow alone   ours/transformers  Pillow's time/ours")
    seconds: dict[str, list[list[float]]] = {name: [] for name in files}
    for _ in range(rounds):
        for name, kind in files.items():
            sums = [0.0] * len(ways)
            for data in kind:
                for way, call in enumerate(ways):
                    sums[way] += timed(partial(call, data))[0]
            seconds[name].append(sums)
    seconds["all"] = [[sum(pair) for pair in zip(*both, strict=True)] for both in zip(*seconds.values(), strict=True)]
    ratios = {}
    for name, rows in seconds.items():
        a, b, c = (statistics.median(column) for column in zip(*rows, strict=True))
        count = tiles if name == "all" else tiles // len(files)
        ratios |= {f"{name}, ours/transformers": round(b / a, 3), f"{name}, Pillow/ours": round(c / a, 3)}
        print(f"{name:12} {count / a:11.0f} {count / b:13.0f} {count / c:13.0f} {b / a:19.2f} {c / a:19.2f}")
    return ratios


def compare_packs(recipe: Path, packs: int) -> dict[str, float]:
    """Times the packs of a recipe and the model's work on them, prints both, and returns the share of waiting."""
    settings = load_recipe(recipe)
    data = PackedDataModule(**settings["data"])
    data.setup("validate")
    raise NotImplementedError
    return {}


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/quickstart.yaml"))
    parser.add_argument("--packs", type=int, default=100)
    options = parser.parse_args()
    if options.rounds < 1 or options.packs < 1:
        parser.error("a median wants at least one round and one pack")
    torch.set_num_threads(1)
    ratios = compare_images(options.rounds)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()

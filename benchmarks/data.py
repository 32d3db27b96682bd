"""Speed of the data, on the CPU, in one run: from image files to tiles, and how long a training step waits for its pack.

    python benchmarks/data.py [--rounds 5] [--recipe quickstart] [--packs 60] [--threads 2] [--profile]

Twelve shapes from 400x300 to 2000x1500, each as a JPEG of quality 90 and as a PNG, are cut as InternVL3 cuts them: tiles
of 448, up to 12, and a thumbnail. Three ways are taken in turn, image by image, with one thread:

* ours: decode, tile, normalise to fp32 `[n, 3, 448, 448]`;
* transformers: the same decoding, then the Pillow processor that it has for InternVL;
* Pillow alone: decode, both resizes and the crops, and nothing else. No way through Pillow can take less.

The pixels of the first two must agree. The row "decoded" begins at images that are decoded already: a PNG takes longer to
decode than all that follows, whoever decodes it.

Then packs of the recipe's training data are read between training steps (forward and backward), as a run without workers
does: how long a step waits, as a share of both. The last line holds the ratios.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import pstats
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any, TypeVar

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from transformers import GotOcr2ImageProcessorPil

from mmcomponents.cli.recipe import load
from mmcomponents.compose import build
from mmcomponents.data import DataError, PackedDataModule
from mmcomponents.data.images import NORMALIZATIONS, decode_image, pixels
from mmcomponents.data.tiling import tile_grid, tile_image
from mmcomponents.objectives import NextToken
from mmcomponents.registry import slots

TILE, MOST = 448, 12
SHAPES = [(400, 300), (300, 400), (512, 512), (640, 427), (640, 480), (800, 600)]
SHAPES += [(1024, 768), (768, 1024), (1280, 720), (1600, 900), (1500, 2000), (2000, 1500)]
FORMATS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 90}, "PNG": {}}
WARM_UP = 3

Tiles = Tensor | list[Image.Image]
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


def our_tiles(image: Image.Image) -> Tensor:
    """Tiles and their pixels."""
    return pixels(tile_image(image, 1, MOST, TILE), *NORMALIZATIONS["imagenet"])


def their_tiles() -> Callable[[Image.Image], Tensor]:
    """Transformers' processor."""
    mean, std = NORMALIZATIONS["imagenet"]
    processor = GotOcr2ImageProcessorPil(
        size={"height": TILE, "width": TILE}, crop_to_patches=True, max_patches=MOST, image_mean=mean, image_std=std
    )

    def tiles(image: Image.Image) -> Tensor:
        made: Tensor = processor(image, return_tensors="pt")["pixel_values"]
        return made

    return tiles


def pillow_decode(data: bytes) -> Image.Image:
    """Pillow's decoding."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def pillow_tiles(image: Image.Image) -> list[Image.Image]:
    """What Pillow has to do in any case."""
    columns, rows = tile_grid(image.width, image.height, 1, MOST, TILE)
    canvas = image.resize((columns * TILE, rows * TILE))
    places = [(TILE * column, TILE * row) for row in range(rows) for column in range(columns)]
    tiles = [canvas.crop((left, top, left + TILE, top + TILE)) for left, top in places]
    return [*tiles, image.resize((TILE, TILE))] if len(tiles) > 1 else tiles


def seconds_of(call: Callable[[], T]) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def compare_images(rounds: int) -> dict[str, float]:
    """Times the three ways, prints tiles a second, and returns the ratios."""
    theirs = their_tiles()
    files = pictures()
    ways: list[tuple[Callable[[bytes], Image.Image], Callable[[Image.Image], Tiles]]]
    ways = [(decode_image, our_tiles), (decode_image, theirs), (pillow_decode, pillow_tiles)]
    tiles, difference = 0, 0.0
    for data in files["JPEG"] + files["PNG"]:  # this also warms up
        made, wanted = our_tiles(decode_image(data)), theirs(decode_image(data))
        if made.shape != wanted.shape or len(pillow_tiles(pillow_decode(data))) != len(made):
            raise SystemExit(f"the tiles differ: {list(made.shape)} and {list(wanted.shape)}")
        difference = max(difference, float((made - wanted).abs().max()))
        tiles += len(made)
    if difference > 1e-5:
        raise SystemExit(f"the pixels differ by {difference:.2g}")
    print(f"{sum(map(len, files.values()))} images, {tiles} tiles, pixels agree within {difference:.1g};", end=" ")
    print(f"tiles a second on one core, medians of {rounds} rounds")
    print("               ours  transformers  Pillow alone   ours/transformers   Pillow's time/ours")
    calls: dict[str, list[list[Callable[[], Tiles]]]] = {
        name: [[lambda d=data, w=way: w[1](w[0](d)) for way in ways] for data in kind] for name, kind in files.items()
    }
    decoded = [decode_image(data) for data in files["JPEG"]]
    calls["decoded"] = [[lambda i=image, w=way: w[1](i) for way in ways] for image in decoded]
    taken: dict[str, list[list[float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, images in calls.items():
            taken[name].append([sum(column) for column in zip(*(map(seconds_of, row) for row in images), strict=True)])
    both = zip(taken["JPEG"], taken["PNG"], strict=True)
    taken["all"] = [[a + b for a, b in zip(*pair, strict=True)] for pair in both]
    ratios = {}
    for name in (*FORMATS, "all", "decoded"):
        a, b, c = (statistics.median(column) for column in zip(*taken[name], strict=True))
        count = tiles if name == "all" else tiles // 2
        ratios |= {f"{name}, ours/transformers": round(b / a, 3), f"{name}, Pillow/ours": round(c / a, 3)}
        print(f"{name:8} {count / a:10.0f} {count / b:13.0f} {count / c:13.0f} {b / a:19.2f} {c / a:20.2f}")
    return ratios


def wait_for_packs(recipe: str, packs: int, profile: bool) -> dict[str, float]:
    """Times packs and steps in turn, prints both, and returns the share of waiting."""
    tree = load([recipe]).resolved()
    data = PackedDataModule(**{**tree["data"], "num_workers": 0})
    try:
        data.setup("fit")
    except DataError as error:
        print(f"no packs were read: {error}")
        return {}
    parts = {slot: part for slot, part in tree["model"].items() if slot in (*slots(), "heads")}
    parts = {slot: part for slot, part in parts.items() if slot not in ("objective", "sampler", "selector")}
    model, objective = build(parts, tree["model"]["vocab_size"], None).train(), NextToken()
    batches, recorder = iter(data.train_dataloader()), cProfile.Profile()
    waited, worked = [], []
    for number in range(WARM_UP + packs):
        begin = time.perf_counter()
        if profile and number >= WARM_UP:
            recorder.enable()
        batch = next(batches)
        recorder.disable()
        middle = time.perf_counter()
        model.zero_grad()
        objective(model, batch, objective.counts(batch)).total.backward()
        waited.append(middle - begin)
        worked.append(time.perf_counter() - middle)
    wait, work = middle_of(waited), middle_of(worked)
    print(
        f"{recipe}: a step of {1e3 * work:.1f} ms waits {1e3 * wait:.1f} ms for its pack, medians of {packs} packs,",
        end="",
    )
    print(f" {torch.get_num_threads()} threads")
    if profile:
        pstats.Stats(recorder).sort_stats("cumulative").print_stats(50)
    return {"wait/step": round(wait / work, 3)}


def middle_of(seconds: Sequence[float]) -> float:
    """The median, without the first few."""
    return statistics.median(seconds[WARM_UP:])


def main() -> None:
    """Runs both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--packs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2, help="of the training steps")
    parser.add_argument("--profile", action="store_true", help="show where the time for a pack goes")
    options = parser.parse_args()
    if options.rounds < 1 or options.packs < 1:
        parser.error("a median wants at least one round and one pack")
    torch.set_num_threads(1)
    ratios = compare_images(options.rounds)
    torch.set_num_threads(options.threads)
    print(json.dumps(ratios | wait_for_packs(options.recipe, options.packs, options.profile)))


if __name__ == "__main__":
    main()

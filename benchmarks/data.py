"""Speed of the data pipeline on the CPU: from image files to tiles, and the time that a step waits for its pack.

    python benchmarks/data.py [--rounds 5] [--recipe quickstart] [--packs 60] [--threads 2] [--profile]

Twelve shapes from 400x300 to 2000x1500, each as a JPEG of quality 90 and as a PNG, are tiled as in InternVL3: up to 12
tiles of 448, and a thumbnail. Three implementations process the images alternately, with one thread:

* this library: decode, tile, normalize to fp32 `[n, 3, 448, 448]`;
* transformers: the same decoding, then its Pillow processor for InternVL;
* Pillow alone: decode, both resizes and the crops, and nothing else: a lower bound for any implementation with Pillow.

The pixels of the first two must agree. The row "decoded" starts from decoded images: decoding a large PNG takes longer
than everything after it, with any decoder.

Then packs of the recipe's training data are built sequentially and used for training steps (forward and backward pass)
as in a run without workers, to measure the time that a step waits for its pack, as a share of the step. The last line
has the ratios.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import pstats
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from typing import Any, TypeVar

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from transformers import GotOcr2ImageProcessorPil

from mmcomponents.cli.recipes.flags import Flags
from mmcomponents.cli.recipes.recipe import load
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.user_error import UserError
from mmcomponents.compose import build
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.errors import DataError
from mmcomponents.data.media.images import NORMALIZATIONS, decode_image, pixels
from mmcomponents.data.media.tiling import tile_grid, tile_image
from mmcomponents.objectives import NextToken
from mmcomponents.registry import slots
from mmcomponents.training import MultimodalTask

TILE, MOST = 448, 12
SHAPES = [(400, 300), (300, 400), (512, 512), (640, 427), (640, 480), (800, 600)]
SHAPES += [(1024, 768), (768, 1024), (1280, 720), (1600, 900), (1500, 2000), (2000, 1500)]
FORMATS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 90}, "PNG": {}}
WARM_UP = 3

Tiles = Tensor | list[Image.Image]
T = TypeVar("T")


def pictures() -> dict[str, list[bytes]]:
    """Returns files of each format: two photographs in turn, cropped to the aspect ratio of a shape and resized."""
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
    """Returns the pixels of an image's tiles."""
    return pixels(tile_image(image, 1, MOST, TILE), *NORMALIZATIONS["imagenet"])


def their_tiles() -> Callable[[Image.Image], Tensor]:
    """Returns transformers' processor."""
    mean, std = NORMALIZATIONS["imagenet"]
    processor = GotOcr2ImageProcessorPil(
        size={"height": TILE, "width": TILE}, crop_to_patches=True, max_patches=MOST, image_mean=mean, image_std=std
    )

    def tiles(image: Image.Image) -> Tensor:
        made: Tensor = processor(image, return_tensors="pt")["pixel_values"]
        return made

    return tiles


def pillow_decode(data: bytes) -> Image.Image:
    """Decodes an image with Pillow."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def pillow_tiles(image: Image.Image) -> list[Image.Image]:
    """Runs the operations that any implementation with Pillow needs."""
    columns, rows = tile_grid(image.width, image.height, 1, MOST, TILE)
    canvas = image.resize((columns * TILE, rows * TILE))
    corners = [(TILE * column, TILE * row) for row in range(rows) for column in range(columns)]
    tiles = [canvas.crop((left, top, left + TILE, top + TILE)) for left, top in corners]
    return [*tiles, image.resize((TILE, TILE))] if len(tiles) > 1 else tiles


def seconds_of(
    function: Callable[[T], Any], sources: Iterable[T], clock: Callable[[], float] = time.process_time
) -> float:
    """Returns the seconds that a function takes for all images or packs; by default, CPU time of the process."""
    begin = clock()
    for source in sources:
        function(source)
    return clock() - begin


def compare_images(rounds: int) -> dict[str, float]:
    """Times the three implementations, prints tiles per second, and returns the ratios."""
    theirs, files = their_tiles(), pictures()
    count, difference = 0, 0.0
    for data in files["JPEG"] + files["PNG"]:  # this also warms up
        made, wanted = our_tiles(decode_image(data)), theirs(decode_image(data))
        if made.shape != wanted.shape or len(pillow_tiles(pillow_decode(data))) != len(made):
            raise SystemExit(f"the tiles differ: {list(made.shape)} and {list(wanted.shape)}")
        difference = max(difference, float((made - wanted).abs().max()))
        count += len(made)
    if difference > 1e-5:
        raise SystemExit(f"the pixels differ by {difference:.2g}")
    complete: list[Callable[[bytes], Tiles]] = [
        lambda data: our_tiles(decode_image(data)),
        lambda data: theirs(decode_image(data)),
        lambda data: pillow_tiles(pillow_decode(data)),
    ]
    tiling: list[Callable[[Image.Image], Tiles]] = [our_tiles, theirs, pillow_tiles]
    decoded = [decode_image(data) for data in files["JPEG"]]
    taken: dict[str, list[list[float]]] = {name: [] for name in (*FORMATS, "all", "decoded")}
    for _ in range(rounds):
        for name, kind in files.items():
            taken[name].append([seconds_of(function, kind) for function in complete])
        taken["all"].append([a + b for a, b in zip(taken["JPEG"][-1], taken["PNG"][-1], strict=True)])
        taken["decoded"].append([seconds_of(function, decoded) for function in tiling])
    print(f"{sum(map(len, files.values()))} images, {count} tiles, pixels agree within {difference:.1g};", end=" ")
    print(f"tiles per second on one core, medians of {rounds} rounds")
    print("               ours  transformers  Pillow alone   ours/transformers   Pillow's time/ours")
    ratios: dict[str, float] = {}
    for name, rows in taken.items():
        a, b, c = (statistics.median(column) for column in zip(*rows, strict=True))
        tiles = count if name == "all" else count / 2
        ratios |= {f"{name}, ours/transformers": round(b / a, 3), f"{name}, Pillow/ours": round(c / a, 3)}
        print(f"{name:8} {tiles / a:10.0f} {tiles / b:13.0f} {tiles / c:13.0f} {b / a:19.2f} {c / a:20.2f}")
    return ratios


def wait_for_packs(recipe: str, packs: int, profile: bool) -> dict[str, float]:
    """Times packs and steps alternately, prints both, and returns the waiting time as a share of a step."""
    tree = load([recipe]).resolved()
    flags = Flags(configs=[recipe], settings=[("data.loading.num_workers", "0")])
    try:
        data = RecipeCLI("generate", flags, MultimodalTask, PackedDataModule).datamodule
        data.setup("fit")
    except (DataError, UserError) as error:
        print(f"no packs: {error}")
        return {}
    parts = {slot: part for slot, part in tree["model"].items() if slot in (*slots(), "heads")}
    parts = {slot: part for slot, part in parts.items() if slot not in ("objective", "sampler", "selector")}
    model, objective = build(parts, tree["model"]["vocab_size"], None).train(), NextToken()
    recorder = cProfile.Profile()
    made = [seconds_of(data.train_packs.__getitem__, [n], time.perf_counter) for n in range(WARM_UP + packs)]
    if profile:
        recorder.runcall(seconds_of, data.train_packs.__getitem__, range(WARM_UP + packs, WARM_UP + 2 * packs))
        pstats.Stats(recorder).sort_stats("cumulative").print_stats(50)
    batches, waited, worked = iter(data.train_dataloader()), list[float](), list[float]()
    for _ in range(WARM_UP + packs):
        begin = time.perf_counter()
        batch = next(batches)
        middle = time.perf_counter()
        model.zero_grad()
        objective(model, batch, objective.counts(batch)).total.backward()
        waited.append(middle - begin)
        worked.append(time.perf_counter() - middle)
    wait, work = middle_of(waited), middle_of(worked)
    print(f"{recipe}: {1e3 * middle_of(made):.1f} ms per pack; a step of {1e3 * work:.1f} ms", end=" ")
    print(f"on {torch.get_num_threads()} threads waits {1e3 * wait:.1f} ms for its pack, medians of {packs} packs")
    return {"wait/step": round(wait / work, 3)}


def middle_of(seconds: Sequence[float]) -> float:
    """Returns the median without the warm-up."""
    return statistics.median(seconds[WARM_UP:])


def main() -> None:
    """Runs both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--packs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2, help="threads of the training steps")
    parser.add_argument("--profile", action="store_true", help="print a profile of building packs")
    options = parser.parse_args()
    if options.rounds < 1 or options.packs < 1:
        parser.error("--rounds and --packs must be at least 1")
    torch.set_num_threads(1)
    ratios = compare_images(options.rounds)
    torch.set_num_threads(options.threads)
    print(json.dumps(ratios | wait_for_packs(options.recipe, options.packs, options.profile)))


if __name__ == "__main__":
    main()

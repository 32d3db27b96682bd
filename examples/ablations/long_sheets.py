"""Writes data for `recipes/ablations/positions.yaml`: short sheets of digits for training, long ones for tests.

    python examples/ablations/long_sheets.py --out data/long_sheets

A sheet is a column of digits, one for each tile. Training sheets have up to four; each test asks for the first and for
the last digit of sheets of 4, 16 or 48.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.shards import ShardWriter
from mmcomponents.demos.handwriting.data_folder import begin, finish
from mmcomponents.demos.handwriting.scenes import SceneStyle, draw_scene, load_scans, split_scans

NAME = "long_sheets"
SHORT = (6.0, 2.0, 2.0, 2.0)
"""Weights of training sheets with one digit, two, three and four."""

SHEETS = {"train": 24_000, "val": 100, "test4": 200, "test16": 200, "test48": 200}
SHARES = {"train": 0.75, "val": 0.05, "test": 0.20}
"""Disjoint shares of the scans."""

ENDS = ("first", "last")


def style_of(part: str) -> SceneStyle:
    """Returns the style of the sheets of a part."""
    length = part.removeprefix("test")
    counts = (0.0,) * (int(length) - 1) + (1.0,) if length.isdigit() else SHORT
    return SceneStyle(28, (20, 26), counts, (0.0, 1.0, 0.0))


def main(arguments: list[str] | None = None) -> None:
    """Command line.

    Args:
        arguments: Arguments; by default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/long_sheets"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="number of sheets over that of the ablation")
    options = parser.parse_args(arguments)
    scans, digits = load_scans()
    parts = dict(zip(SHARES, split_scans(digits, tuple(SHARES.values()), options.seed), strict=True))
    begin(options.out, NAME, list(SHEETS))
    shards: list[Path] = []
    texts: list[str] = []
    for number, (part, sheets) in enumerate(SHEETS.items()):
        allowed = parts["test" if part.startswith("test") else part]
        with ShardWriter(options.out, part, 8000) as writer:
            for sheet in range(max(1, round(sheets * options.scale))):
                generator = np.random.default_rng((options.seed, number, sheet))
                scene = draw_scene(scans, digits, allowed, style_of(part), generator, vary=part == "train")
                kinds = generator.permutation(ENDS).tolist()
                answers = {"first": scene.digits[0], "last": scene.digits[-1]}
                messages = []
                for turn, kind in enumerate(kinds):
                    image = "" if turn else "<image>\n"
                    messages.append({"role": "user", "content": f"{image}Which digit is the {kind}?"})
                    messages.append({"role": "assistant", "content": str(answers[kind])})
                texts += [message["content"] for message in messages]
                record = {"messages": messages, "kinds": kinds, "source": NAME, "digits": scene.digits}
                writer.write(f"{sheet:06d}", record, [("png", scene.png())])
        shards += writer.paths
    tokenizer = train_tokenizer(texts, 512)
    tokenizer.save_pretrained(str(options.out / "tokenizer"))
    for shard in shards:
        build_index(shard, tokenizer)
    finish(options.out, {"name": NAME, "seed": options.seed, "shards": [shard.name for shard in shards]})


if __name__ == "__main__":
    main()

"""Compares the answers of `mmcomponents predict` with the squares of the test pictures.

    python measure.py runs/pointing/predictions.jsonl data/pointing

prints how far the last place of an answer is from the middle of the square: the larger of both coordinates, as a mean
over the pictures. The second figure is that of an answer that stays in the centre.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np


def main(words: list[str] | None = None) -> None:
    """Prints both means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path, help="file that predict wrote")
    parser.add_argument("data", type=Path, help="folder that make_data.py wrote")
    options = parser.parse_args(words)
    away, centre = [], []
    for row in map(json.loads, options.predictions.read_text().splitlines()):
        line = int(row["key"].rpartition("/")[2])  # of test.jsonl, from 1 on
        target = np.load(options.data / "actions" / f"test-{line - 1:06d}.npy")[-1]
        away.append(np.abs(np.array(row["answer"][-1]) - target).max())
        centre.append(np.abs(target).max())
    print(f"{len(away)} answers: {np.mean(away):.2f} away, the centre {np.mean(centre):.2f}")


if __name__ == "__main__":
    main()

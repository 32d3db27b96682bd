"""Training step of the tiny recipes of systems, side by side with the quickstart's, on the CPU.

    python benchmarks/systems_step.py [NAME ...]

All models get packs with the same number of tokens and of tiles. Steps alternate; a ratio is that of two steps that
follow one another, and the median of all rounds is printed, with the first and the third quartile.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch

from mmcomponents.batch import PackedBatch
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe import shipped
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.training import MultimodalTask
from mmcomponents.training.memory.synthetic_pack import synthetic_pack

BASE = "quickstart"
TOKENS, TILES, ROUNDS, WARM_UP = 1024, 48, 21, 3


class Trained:
    """A model of a recipe with its optimizer and one pack."""

    def __init__(self, name: str) -> None:
        cli = RecipeCLI("plan", sort_flags(["--config", name]), MultimodalTask, data_class=None)
        task: Any = cli.model
        task.configure_model()
        self.model, self.objective = task.model.train(), task.objective
        self.optimizer = task.make_optimizer(self.model.parameters())
        self.pack: PackedBatch = synthetic_pack(self.model, TOKENS, TILES)
        assert self.pack.images is not None
        assert self.pack.images.pixels is not None
        self.pack.images.pixels = torch.randn_like(self.pack.images.pixels.contiguous())

    def step(self) -> float:
        """Returns the seconds of a step."""
        begin = time.perf_counter()
        loss = self.objective(self.model, self.pack, self.objective.counts(self.pack)).total
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - begin


def main(names: list[str]) -> int:
    """Prints a line for each recipe."""
    chosen = names or [name for name in shipped() if name.endswith(("/tiny", "/tiny-post"))]
    base = Trained(BASE)
    for name in chosen:
        other, ratios = Trained(name), []
        for turn in range(WARM_UP + ROUNDS):
            ratio = other.step() / base.step()
            if turn >= WARM_UP:
                ratios.append(ratio)
        low, middle, high = statistics.quantiles(ratios, n=4)
        sys.stdout.write(f"{name:16s} {middle:.2f} ({low:.2f} to {high:.2f}) steps of {BASE}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
